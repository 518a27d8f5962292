"""The documentation: nothing of the code is missing from it, and nothing in it is gone from the code."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest
from pydantic import BaseModel

from gastown.agents.lifecycle.states import EDGES
from gastown.contract.agents import MessageRequest, StartAgentRequest
from gastown.contract.drain import DrainRequest
from gastown.contract.git import MergeRequest
from gastown.contract.tools import tools
from gastown.contract.town import Hydration, RefreshTokenRequest
from gastown.hall.user_api.shown import BeadShown, TownStatus
from gastown.metrics.table import METRICS
from gastown.testing.faults import FAULTS
from tools.site import cli, http_api, log_events, settings, user_api, worker_api
from tools.site.__main__ import NotBuilt, build
from tools.site.pages import DOCS, REPOSITORY, SOURCE, reference, stage
from tools.site.tree import Node, parse_tree, read_rooms, read_tree

TESTS = REPOSITORY / "tests"
HAND_WRITTEN = sorted(path for path in DOCS.rglob("*.md") if path.parent.name != "adr" or path.name == "index.md")
NAMES = [path.relative_to(DOCS).as_posix() for path in HAND_WRITTEN]
ALL_SOURCE = "\n".join(
    path.read_text("utf-8") for path in sorted(SOURCE.rglob("*")) if path.suffix in {".py", ".js"}
)


_SUFFIXES = {"db", "env", "js", "json", "log", "md", "py", "svg", "token", "toml"}


@cache
def made(name: str) -> str:
    """A page that is made from the code."""
    return reference()[name]()


def in_backticks(page: Path) -> set[str]:
    """What a page names in its text, its blocks of code left out."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    return set(re.findall(r"`([^`\n]+)`", text))


# What the code has is in the reference, with a meaning.


def test_every_setting_is_told_with_its_meaning() -> None:
    assert [name for name, field in settings.settings().items() if not field.description] == []
    assert [name for name in settings.settings() if f"`{name}`" not in made("settings.md")] == []


def test_every_variable_that_the_hall_reads_is_told_and_no_other() -> None:
    assert settings.hall_variables(SOURCE) == settings.HALL_VARIABLES.keys()


def test_what_is_secret_is_told_among_the_credentials() -> None:
    tokens = {
        *("GASTOWN_CONTAINER_TOKEN", "GASTOWN_SESSION_TOKEN", "KILOCODE_TOKEN"),
        *("GASTOWN_CONTROL_TOKEN", "GASTOWN_ATTACH_TOKEN", "GASTOWN_READ_TOKEN"),
    }
    assert settings.grouped()["Credentials"].keys() == tokens
    assert all(settings.grouped().values())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *(("KILOCODE_TOKEN", "secret"), ("GASTOWN_TOWN_ID", "text"), ("GASTOWN_CONTROL_HOST", "text")),
        *(("GASTOWN_CONTROL_ORIGINS", "list"), ("GASTOWN_AGENT_UIDS", "range")),
        *(("GASTOWN_DRAIN_SECONDS", "number"), ("GASTOWN_CONTROL_PORT", "whole number")),
        ("GASTOWN_PARENT_PID", "whole number"),
    ],
)
def test_a_setting_is_told_with_the_type_of_its_value(name: str, expected: str) -> None:
    assert settings.kind(settings.settings()[name]) == expected


def test_what_up_sets_itself_is_told() -> None:
    assert "GASTOWN_API_URL" in settings.set_by_up()
    assert all(f"`{name}`" in made("settings.md").partition("## The hall")[2] for name in settings.set_by_up())


def test_every_route_is_told_with_its_meaning() -> None:
    operations = list(http_api.operations(http_api.describe_api()))
    assert [operation.title for operation in operations if not operation.meaning] == []
    assert [
        operation.title for operation in operations if f"### {operation.title} {{" not in made("http-api.md")
    ] == []


def test_every_websocket_is_told_with_its_meaning() -> None:
    assert [path for path, meaning in http_api.sockets() if not meaning] == []


def test_every_error_is_told_with_its_meaning() -> None:
    assert [name for _, meaning, name in http_api.error_kinds() if not meaning] == []


def test_every_call_of_the_worker_is_told_with_its_meaning() -> None:
    assert [asked for asked in worker_api.asked_by_container(SOURCE) if not asked.meaning] == []


def test_the_hall_answers_every_call_of_the_worker_and_says_how() -> None:
    hall = worker_api.answered_by_hall()
    assert [asked.key for asked in worker_api.asked_by_container(SOURCE) if not hall.get(asked.key)] == []


def test_every_event_that_the_control_server_makes_is_told() -> None:
    """Those that it adds to kilo's own."""
    made_here = {
        name
        for file in (SOURCE / "agents").rglob("*.py")
        for name in re.findall(r'\.(?:record|_keep)\("([a-z_.]+)"', file.read_text("utf-8"))
    }
    assert {"agent.status", "agent.usage"} <= made_here
    assert [name for name in made_here if f"`{name}`" not in made("worker-api.md")] == []


def test_every_command_and_argument_is_told_with_its_meaning() -> None:
    for name, (parser, meaning) in cli.commands().items():
        assert meaning, name
        assert [spelling for spelling, told in cli.options(parser) if not told] == [], name


def test_every_metric_is_told_with_its_meaning() -> None:
    assert [name for name, metric in METRICS.items() if not metric.help] == []
    assert [name for name in METRICS if f"`{name}`" not in made("metrics.md")] == []


def test_what_stands_in_angle_brackets_is_not_lost() -> None:
    """Outside of backticks a reader's `<town>` would be taken for HTML."""
    for name in (page for page in reference() if page.endswith(".md")):
        text = re.sub(r"```.*?```|`[^`]*`", "", made(name), flags=re.DOTALL)
        assert re.findall(r"<(?!/?(?:br|small)>)[^>]*>", text) == [], name


def test_every_tool_and_argument_is_told_with_its_meaning() -> None:
    for tool in tools():
        assert tool.description, tool.name
        assert [name for name, told in tool.args.items() if not told.get("description")] == [], tool.name


def test_every_log_event_has_a_meaning_and_every_meaning_an_event() -> None:
    events, meanings = set(log_events.events_of(SOURCE)), set(log_events.meanings())
    assert {"without a meaning": events - meanings, "without an event": meanings - events} == {
        "without a meaning": set(),
        "without an event": set(),
    }


def test_every_meaning_of_a_log_event_is_one_sentence_or_two() -> None:
    assert [name for name, told in log_events.meanings().items() if not told.endswith(".") or "\n" in told] == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("log.info('a.b', key=1)", {"a.b"}),
        ("def f(e):\n    log.warning('a.b', exc_info=e)", {"a.b"}),
        ("def f(x):\n    write = log.debug if x else log.info\n    write('a.b')", {"a.b"}),
        ("def tell(what):\n    log.info(what)\ndef g():\n    tell('a.b')\n    tell('c.d')", {"a.b", "c.d"}),
        (
            "class C:\n  def tell(self, what):\n    log.info(what)\n  def g(self):\n    self.tell('a.b')",
            {"a.b"},
        ),
        ("later(partial(log.warning, 'a.b', **told))", {"a.b"}),
        ("task(lambda error: log.error('a.b', exc_info=error))", {"a.b"}),
    ],
)
def test_no_way_to_write_to_the_log_is_overlooked(tmp_path: Path, source: str, expected: set[str]) -> None:
    (tmp_path / "module.py").write_text(source)
    assert log_events.events_of(tmp_path).keys() == expected


def test_a_log_event_that_only_the_run_knows_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text("log.info(f'agent.{state}')")
    with pytest.raises(log_events.Unreadable, match=r"module\.py:1"):
        log_events.events_of(tmp_path)


# What the hand-written pages name is in the code.


def test_every_fault_of_the_laboratory_is_on_the_page_of_losses_and_no_other() -> None:
    page = (DOCS / "explanation" / "what-is-lost.md").read_text("utf-8")
    shown = {name for proof in re.findall(r"<small>(.*?)</small>", page) for name in re.findall(r"`(\w+)`", proof)}
    assert shown == FAULTS.keys()


def test_every_phase_of_a_start_is_on_the_page_about_stuck_ones() -> None:
    entered = set(re.findall(r"(?:phases\.enter|\benter)\(\"(\w+)\"\)", ALL_SOURCE)) - {"switch"}
    told = in_backticks(DOCS / "how-to" / "debug-a-stuck-start.md")
    assert entered - told == set()


def test_the_picture_of_an_agents_life_has_the_edges_of_the_table() -> None:
    picture = (DOCS / "explanation" / "agent.svg").read_text("utf-8")
    drawn = {tuple(edge.split()) for edge in re.findall(r'data-edge="([a-z ]+)"', picture)}
    assert drawn == {(before.value, after.value) for before, afters in EDGES.items() for after in afters}


def test_the_recorded_tree_of_tasks_is_that_of_a_town_that_opens_now() -> None:
    """`make architecture` records it anew; a process of its own, because the town takes the signals."""
    page = (DOCS / "explanation" / "architecture.md").read_text("utf-8")
    command = [sys.executable, "-m", "tools.site.architecture", "--print"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    recorded, now = read_tree(page), parse_tree(done.stdout)
    assert in_any_order(recorded) == in_any_order(now)
    assert [node.name for node in recorded.inside] == [node.name for node in now.inside]


def in_any_order(node: Node) -> tuple[str, str, list[object]]:
    """A tree whose tasks are sorted: which of two tasks begins first is no part of the architecture."""
    return node.name, node.note, sorted(map(in_any_order, node.inside), key=repr)


def test_the_recorded_tree_has_what_opens_around_what() -> None:
    """The broker opens before the pool of servers, the roster of agents before what serves."""
    names = [node.name for node in read_tree((DOCS / "explanation" / "architecture.md").read_text("utf-8")).inside]
    assert names.index("broker") < names.index("pool") < names.index("roster") < names.index("serve")


def test_the_picture_of_the_rooms_has_those_of_the_house() -> None:
    rooms = {room for floor in read_rooms(REPOSITORY / "CONTRIBUTING.md") for room in floor}
    house = {path.stem for path in SOURCE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert rooms == house - {"__init__", "__main__", "hall"}


@pytest.mark.parametrize("name", NAMES)
def test_every_file_that_a_page_names_exists(name: str) -> None:
    files = {
        text for text in in_backticks(DOCS / name) if re.fullmatch(r"(?:[\w-]+/)*[\w-]+\.(?:py|js|toml)", text)
    }
    roots = (REPOSITORY, SOURCE, TESTS, TESTS / "kilo")
    assert [file for file in sorted(files) if not any((root / file).is_file() for root in roots)] == []


BODIES = {
    "agents/start": StartAgentRequest,
    "agents/$mayor/message": MessageRequest,
    "drain": DrainRequest,
    "git/merge": MergeRequest,
    "refresh-token": RefreshTokenRequest,
}


@pytest.mark.parametrize("name", NAMES)
def test_every_body_that_a_page_sends_is_one_of_the_contract(name: str) -> None:
    """What somebody copies from a page is accepted; a key that the contract does not know is a slip."""
    text = (DOCS / name).read_text("utf-8")
    for path, body in re.findall(
        r"\$ ask \$town/(\S+) [^'$]*'content-type: application/json'[^'$]*'(\{[^']*\})'", text
    ):
        given = json.loads(body)
        known = {field.alias or key for key, field in BODIES[path].model_fields.items()}
        assert given.keys() <= known
        if "…" not in body:  # what stands for something longer
            BODIES[path].model_validate(given)


def test_the_calls_that_begin_and_end_a_piece_of_work_have_an_example() -> None:
    pages = "\n".join((DOCS / name).read_text("utf-8") for name in NAMES)
    assert [path for path in ("agents/start", "git/merge") if f"ask $town/{path} -H" not in pages] == []


@pytest.mark.parametrize("name", NAMES)
def test_every_variable_that_a_page_names_is_known_to_the_code(name: str) -> None:
    text = (DOCS / name).read_text("utf-8")
    variables = set(re.findall(r"\b(?:GASTOWN|KILO|KILOCODE)_[A-Z_]+\b", text))
    assert variables - settings.settings().keys() - settings.HALL_VARIABLES.keys() == set()


@pytest.mark.parametrize("name", NAMES)
def test_every_log_event_that_a_page_names_is_written(name: str) -> None:
    events = log_events.meanings()
    nouns = {event.partition(".")[0] for event in events}
    # Attributes in a program, or in the tree of tasks, look alike.
    text = re.sub(r"```(python|text)\n.*?```", "", (DOCS / name).read_text("utf-8"), flags=re.DOTALL)
    named = set(re.findall(r"(?<![\w./-])([a-z_]+\.[a-z_]+)(?![\w./])", text))
    named = {
        word for word in named if word.partition(".")[0] in nouns and word.rpartition(".")[2] not in _SUFFIXES
    }
    of_health = {f"hydration.{field.alias or key}" for key, field in Hydration.model_fields.items()}
    assert named - events.keys() - of_health == set()


@pytest.mark.parametrize("name", NAMES)
def test_every_metric_that_a_page_names_is_in_the_table(name: str) -> None:
    samples = {sample for metric in METRICS.values() for sample in metric.samples} | METRICS.keys()
    named = set(re.findall(r"\bgastown_[a-z_]+\b", (DOCS / name).read_text("utf-8")))
    arguments = {variable.lower() for variable in settings.settings()}  # of `open_town`, in a test
    assert named - samples - arguments == set()


# The site as a whole.


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; building it fails on a broken link or anchor."""
    target = tmp_path_factory.mktemp("site") / "site"
    build(target)
    return target


def test_every_page_is_in_the_menu_once(tmp_path: Path) -> None:
    menu = tomllib.loads(stage(tmp_path).read_text("utf-8"))["project"]["nav"]
    listed = [page for section in menu for pages in section.values() for page in pages]
    staged = [path.relative_to(tmp_path / "docs").as_posix() for path in (tmp_path / "docs").rglob("*.md")]
    assert sorted(listed) == sorted(staged)


def test_no_page_fetches_anything_from_outside(site: Path) -> None:
    """A page may link to the outside; what it loads is its own."""
    outside = re.compile(
        r"""<(?:script|link|img|iframe|source|video)\b[^>]*\b(?:src|href)=["']?(?:https?:)?//[^"'\s>]+"""
    )
    found = [hit for page in sorted(site.rglob("*.html")) for hit in outside.findall(page.read_text("utf-8"))]
    styles = [
        sheet
        for sheet in site.rglob("*.css")
        if re.search(r"url\(\s*[\"']?(?:https?:)?//", sheet.read_text("utf-8"))
    ]
    assert (found, styles) == ([], [])


def test_the_pages_hold_their_pictures_and_cards(site: Path) -> None:
    assert 'class="tree"' in (site / "explanation" / "architecture.html").read_text("utf-8")
    assert "<svg" in (site / "index.html").read_text("utf-8")
    assert "rotate-credentials.html" in (site / "how-to" / "index.html").read_text("utf-8")


def test_broken_links_are_an_error_that_names_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def staged_badly(target: Path) -> Path:
        config = stage(target)
        with (target / "docs" / "reference" / "cli.md").open("a") as page:
            page.write("\n[a](nowhere.md) [b](settings.md#nothing) [c](#nothing)\n")
        return config

    monkeypatch.setattr("tools.site.__main__.stage", staged_badly)
    with pytest.raises(NotBuilt) as problem:
        build(tmp_path / "site")
    named = re.findall(r"(page|anchor) does not exist\n.*reference/cli\.md", str(problem.value))
    assert named == ["page", "anchor", "anchor"]
    assert not (tmp_path / "site").exists()


@pytest.mark.parametrize(("number", "model"), [(0, TownStatus), (1, BeadShown)])
def test_the_forms_that_scripts_rely_on_are_shown_as_the_hall_answers_them(
    number: int, model: type[BaseModel]
) -> None:
    """Key for key, in their order, and nothing else."""
    page = (DOCS / "how-to" / "follow-and-steer-a-town.md").read_text("utf-8")
    shown = json.loads(re.findall(r"^```json\n(.*?)^```", page, re.DOTALL | re.MULTILINE)[number])
    answered = model.model_validate(shown).model_dump(mode="json", by_alias=True)
    assert json.dumps(answered) == json.dumps(shown)


def test_every_route_of_the_user_api_is_told_with_its_meaning() -> None:
    routes = [one for path in user_api.described()["paths"].values() for one in path.values()]
    assert [one["operationId"] for one in routes if one["summary"] not in made("user-api.md")] == []
    assert "BeadShown" in made("user-openapi.json")
