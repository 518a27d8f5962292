"""What no tracked file may hold: the address of a package registry, a path of one machine."""

from __future__ import annotations

import os
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]

# In pieces, so that this file does not hold what it looks for.
REGISTRY_HOSTS = [
    "pypi" + ".org",
    "python" + "hosted.org",
    "npmjs" + ".org",
    "npmjs" + ".com",
    "yarnpkg" + ".com",
    "deb.debian" + ".org",
    "security.debian" + ".org",
    "archive.ubuntu" + ".com",
    "proxy.golang" + ".org",
    "crates" + ".io",
]
PERSONAL_FOLDERS = ["ro" + "ot/", "ho" + "me/[a-z]", "Us" + "ers/[A-Za-z]", "wo" + "rk/(main|shared)"]
# A path from the root of the disk, not one that has such a folder inside: `./home/x`, `{town}/home/x`.
MACHINE_PATHS = [r"(?<![\w.}/-])/" + folder for folder in PERSONAL_FOLDERS]


@cache
def tracked_lines() -> list[tuple[str, str]]:
    """`file:line` and text of every line that git tracks."""
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    names = [name for name in listed.stdout.decode().split("\0") if (REPOSITORY / name).is_file()]
    return [
        (f"{name}:{number}", line)
        for name in names
        for number, line in enumerate((REPOSITORY / name).read_text("utf-8", "replace").splitlines(), start=1)
    ]


def lines_with(pattern: str) -> list[str]:
    """`file:line` of every tracked line in which `pattern` is found."""
    found = re.compile(pattern)
    return [place for place, line in tracked_lines() if found.search(line)]


@pytest.mark.parametrize("host", REGISTRY_HOSTS)
def test_no_tracked_file_names_a_registry(host: str) -> None:
    """Whoever installs brings the address of the registry; no file of ours does."""
    assert lines_with(re.escape(host)) == []


@pytest.mark.parametrize("place", MACHINE_PATHS)
def test_no_tracked_file_names_a_path_of_one_machine(place: str) -> None:
    """A path of a developer's machine is wrong on every other."""
    assert lines_with(place) == []


def test_no_tracked_file_has_the_marks_of_a_conflict() -> None:
    """In a docstring they are no syntax error, so nothing else would notice them."""
    assert lines_with(r"^(<{7}|>{7}) ") == []


def test_ci_runs_the_documented_commands() -> None:
    """`.ci/run` is executable, and calls `make test`, as the README does, and what reads the code."""
    script = REPOSITORY / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert {"make test", "make lint-python"} <= set(re.findall(r"make [a-z-]+", script.read_text("utf-8")))


MAKE = """#!/usr/bin/env bash
case $1 in
test) echo "=== 7 passed in 1.50s ==="; exit "$TEST" ;;
lint-python) echo "Found no errors"; exit "$LINT" ;;
esac
"""


@pytest.mark.parametrize(("test", "lint", "code"), [(0, 0, 0), (2, 0, 1), (0, 1, 1), (2, 1, 1)])
def test_ci_fails_when_a_part_fails_and_ends_with_pytests_closing_line(
    tmp_path: Path, test: int, lint: int, code: int
) -> None:
    """Both parts run whatever the other says, and the closing line comes after what the linters say."""
    make = tmp_path / "make"
    make.write_text(MAKE, "utf-8")
    make.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TEST": str(test), "LINT": str(lint)}
    done = subprocess.run(
        [REPOSITORY / ".ci" / "run"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == code
    said = done.stdout.splitlines()
    assert said.index("Found no errors") < len(said) - 1 - said[::-1].index("=== 7 passed in 1.50s ===")
