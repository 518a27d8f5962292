"""Nothing that lies in the folder where somebody starts a town is run as a part of it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from gastown.git.access import HelperAccess
from gastown.hall.drivers.process import SERVE

PLANTED = ("h2", "sitecustomize", "usercustomize", "structlog", "trio", "json", "argparse", "gastown")
COMMAND = str(Path(sys.executable).with_name("gastown"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder in which each planted module leaves a mark when it is run."""
    folder = tmp_path / "cloned"
    folder.mkdir()
    for name in PLANTED:
        mark = tmp_path / f"{name}.ran"
        (folder / f"{name}.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
    return folder


def run_in(folder: Path, command: Sequence[str], **variables: str) -> subprocess.CompletedProcess[bytes]:
    env = {"PATH": os.environ["PATH"], "HOME": str(folder.parent), **variables}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, timeout=30, check=False)


def ran(folder: Path) -> list[str]:
    return sorted(mark.stem for mark in folder.parent.glob("*.ran"))


@pytest.mark.parametrize("variables", [{}, {"PYTHONPATH": "."}], ids=["plain", "a path of the environment"])
def test_a_container_runs_no_module_of_the_current_folder(folder: Path, variables: dict[str, str]) -> None:
    """The command of `up` starts the installed gastown, which imports all it needs and refuses its settings."""
    done = run_in(folder, SERVE, GASTOWN_CONTROL_PORT="none", **variables)
    assert (done.returncode, ran(folder)) == (2, [])
    assert b"GASTOWN_CONTROL_PORT" in done.stderr


@pytest.mark.parametrize("command", [[COMMAND], [sys.executable, "-m", "gastown"]], ids=["command", "module"])
def test_a_command_runs_no_module_of_the_current_folder(folder: Path, command: list[str]) -> None:
    """`python -m` looks for gastown in the folder first, so there is none here; all it imports is out of reach."""
    (folder / "gastown.py").unlink()
    done = run_in(folder, [*command, "up", "--dir", "/dev/null/town"])
    assert (done.returncode, ran(folder)) == (2, [])
    assert b"gastown up: " in done.stderr


def test_the_credential_helper_of_git_runs_no_module_of_the_current_folder(folder: Path) -> None:
    """An agent's git runs the helper in the agent's worktree."""
    command = HelperAccess("/dev/null/s", b"secret").config[1][1].removeprefix("!")
    done = run_in(
        folder, ["sh", "-c", f"{command} get </dev/null"], GASTOWN_GIT_SOCKET="/dev/null/s", PYTHONPATH="."
    )
    assert ran(folder) == []
    assert b"Traceback" not in done.stderr
