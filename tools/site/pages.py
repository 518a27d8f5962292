"""The pages of the site: which there are, in which order, and what is made from the code."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from html import escape
from pathlib import Path

from tools.site import agent_tools, cli, http_api, log_events, metrics, settings, user_api, worker_api
from tools.site.markdown import sentence, title_and_lead
from tools.site.tree import draw_rooms, draw_tree_of, read_rooms

__all__ = ["DOCS", "REPOSITORY", "SOURCE", "reference", "stage"]

REPOSITORY = Path(__file__).parents[2]
SOURCE = REPOSITORY / "src" / "gastown"
DOCS = REPOSITORY / "docs"
CONFIG = Path(__file__).with_name("zensical.toml")
STYLES = Path(__file__).with_name("site.css")

_PICTURE = re.compile(r"^!\[(?P<told>[^\]]*)\]\((?P<file>[^)\s]+\.svg)\)$", re.MULTILINE)
_CARDS = re.compile(r"^<!-- cards: (?P<folder>[\w/-]+) -->$", re.MULTILINE)
_ROOMS = "<!-- the rooms -->"


def reference() -> Mapping[str, Callable[[], str]]:
    """The pages below `reference/` that are made from the code, in the order of the menu."""
    described = http_api.describe_api()
    return {
        "http-api.md": lambda: http_api.page(described),
        "worker-api.md": lambda: worker_api.page(SOURCE),
        "settings.md": lambda: settings.page(SOURCE),
        "cli.md": cli.page,
        "user-api.md": user_api.page,
        "tools.md": agent_tools.page,
        "metrics.md": metrics.page,
        "log-events.md": lambda: log_events.page(SOURCE),
        "openapi.json": lambda: json.dumps(described, indent=1, sort_keys=True),
        "user-openapi.json": lambda: json.dumps(user_api.described(), indent=1, sort_keys=True),
    }


def stage(target: Path) -> Path:
    """Lay all that the generator needs into `target`, which is empty; returns the configuration's path."""
    pages = target / "docs"
    shutil.copytree(DOCS, pages, ignore=shutil.ignore_patterns("0000-template.md"))
    (pages / "reference").mkdir(exist_ok=True)
    for name, make in reference().items():
        (pages / "reference" / name).write_text(make(), "utf-8")
    shutil.copy(STYLES, pages / STYLES.name)
    for page in sorted(pages.rglob("*.md")):
        page.write_text(_finished(page, pages), "utf-8")
    config = target / CONFIG.name
    config.write_text(_with_lists(CONFIG.read_text("utf-8"), pages), "utf-8")
    return config


def _finished(page: Path, pages: Path) -> str:
    """The page with its pictures inside it, so that they follow the colours of the site, and its cards."""
    text = page.read_text("utf-8")
    text = _PICTURE.sub(lambda found: _figure(page.parent / found["file"], found["told"]), text)
    text = _CARDS.sub(lambda found: _cards(page, pages, found["folder"]), text)
    text = text.replace(_ROOMS, draw_rooms(read_rooms(REPOSITORY / "CONTRIBUTING.md")))
    return draw_tree_of(text)


def _figure(picture: Path, told: str) -> str:
    drawn = re.sub(r"\s*\n\s*", " ", picture.read_text("utf-8")).strip()
    caption = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(told))
    return f'<figure class="drawing"><div>{drawn}</div><figcaption>{caption}</figcaption></figure>'


def _cards(page: Path, pages: Path, folder: str) -> str:
    """A card for each page of a folder: its title, and the first sentence of it."""
    lines = ['<div class="cards" markdown>\n']
    for other in _pages_in(pages, folder):
        title, lead = title_and_lead(other.read_text("utf-8"))
        first = re.split(r"(?<=[.!?]) ", sentence(lead))[0]
        link = Path(*[".."] * len(page.parent.relative_to(pages).parts), other.relative_to(pages)).as_posix()
        lines.append(f"- [**{title}**]({link})<br>{first}\n")
    return "\n".join([*lines, "</div>"])


def _pages_in(pages: Path, folder: str) -> list[Path]:
    generated = [pages / folder / name for name in _ORDER.get(folder, ())]
    rest = sorted(
        page for page in (pages / folder).glob("*.md") if page.name != "index.md" and page not in generated
    )
    return [page for page in generated if page.is_file()] + rest


_ORDER: Mapping[str, Iterable[str]] = {
    "how-to": ("run-on-one-machine.md", "kubernetes.md", "cloudflare.md", "image.md"),
    "reference": (
        "http-api.md",
        "worker-api.md",
        "settings.md",
        "cli.md",
        "user-api.md",
        "metrics.md",
        "log-events.md",
        "tools.md",
        "script.md",
    ),
    "explanation": (
        "architecture.md",
        "gate.md",
        "broker.md",
        "threat-model.md",
        "what-is-lost.md",
        "glossary.md",
    ),
}


def _with_lists(config: str, pages: Path) -> str:
    """The configuration with each `"folder/*.md"` of its menu spelled out."""

    def spelled(found: re.Match[str]) -> str:
        names = (page.relative_to(pages).as_posix() for page in _pages_in(pages, found["folder"]))
        return ", ".join(json.dumps(name) for name in names)

    return re.sub(r'"(?P<folder>[\w-]+)/\*\.md"', spelled, config)
