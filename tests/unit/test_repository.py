"""What no tracked file may hold: the address of a package registry, a path of one machine."""

from __future__ import annotations

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


def test_ci_runs_the_documented_command() -> None:
    """`.ci/run` is executable and calls `make test`, as the README does."""
    script = REPOSITORY / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert "make test" in script.read_text("utf-8")
