"""The repository of the demo. Making it blocks while git works."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from subprocess import DEVNULL, CalledProcessError, TimeoutExpired, run

from gastown.isolation.ownership import write_whole

__all__ = ["NoDemo", "make_repository"]

_SECONDS = 30
_FILES = {
    "greet.py": '''"""Says hello in every language that it knows."""

GREETINGS = {
    "en": "Hello",
}

for language, greeting in GREETINGS.items():
    print(f"{language}: {greeting}")
''',
    "README.md": """# Greetings

`python3 greet.py` says hello. This repository belongs to the demo of `gastown up`: a script has written it.
""",
}


class NoDemo(Exception):
    """The repository cannot be made. One clear sentence."""


def make_repository(place: Path) -> None:
    """A repository with one commit on `main`, checked out; one that is there already stays as it is.

    It appears as a whole or not at all. Raises `NoDemo`, OSError.
    """
    if place.exists():
        return
    part = place.with_name(f".{place.name}.part")
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # the town's: for its owner only
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(mode=0o700)
    for name, text in _FILES.items():
        write_whole(part / name, text, 0o644)
    _git(part, "init", "--quiet", "--initial-branch=main")
    _git(part, "add", *_FILES)
    _git(part, "commit", "--quiet", "--message=Say hello in English")
    part.rename(place)


def _git(place: Path, *arguments: str) -> None:
    person = {"NAME": "Gastown's demo", "EMAIL": "demo@gastown.invalid"}
    roles = {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in person.items()}
    environment = {
        "PATH": os.pathsep.join(os.get_exec_path()),
        "HOME": "/nonexistent",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "LC_ALL": "C.UTF-8",
        **roles,
    }
    try:
        run(
            ("git", *arguments), cwd=place, env=environment, stdin=DEVNULL, capture_output=True, text=True,
            timeout=_SECONDS, check=True,
        )  # fmt: skip
    except FileNotFoundError:
        raise NoDemo("the demo needs git, which is not installed") from None
    except TimeoutExpired:
        raise NoDemo(f"git did not make the demo's repository in {place} within {_SECONDS} s") from None
    except CalledProcessError as error:
        last = str(error.stderr).strip().rpartition("\n")[2]
        raise NoDemo(f"git did not make the demo's repository in {place}: {last or 'no reason given'}") from None
