"""`make setup` on machines that lack something: it says all of it before it downloads or changes anything."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PROGRAMS = (
    "bash",
    "make",
    "env",
    "uname",
    "dirname",
    "id",
    "sed",
    "awk",
    "find",
    "touch",
    "python3",
    "git",
    "npm",
)


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A checkout, and beside it a folder with all the programs that there are."""
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, tmp_path)
    shutil.copytree(REPOSITORY / "tools", tmp_path / "tools", ignore=shutil.ignore_patterns("node_modules"))
    (tmp_path / "src" / "gastown").mkdir(parents=True)
    (tmp_path / "src" / "gastown" / "__init__.py").touch()
    (tmp_path / "bin").mkdir()
    for program in PROGRAMS:
        if found := shutil.which(program):
            (tmp_path / "bin" / program).symlink_to(found)
    (tmp_path / "bin" / "git").touch(0o755)
    write(tmp_path, "python3", f'exec {Path(sys.executable).resolve()} "$@"')
    write(tmp_path, "npm", "echo 10.0.0")
    write(tmp_path, "apt-get", "exit 9")
    return tmp_path


def write(machine: Path, program: str, script: str) -> None:
    path = machine / "bin" / program
    path.unlink(missing_ok=True)
    path.write_text(f"#!{shutil.which('bash')}\n{script}\n")
    path.chmod(0o755)


def setup(machine: Path, *arguments: str, **more: str) -> tuple[int, list[str]]:
    done = subprocess.run(
        ["make", "setup", *arguments],
        cwd=machine,
        env={"PATH": str(machine / "bin")} | more,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    said = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("setup:")]
    assert not (machine / ".venv").exists()
    assert not (machine / ".tools").exists()
    return done.returncode, said


def test_all_that_is_missing_is_named_at_once_with_the_command_that_installs_it(machine: Path) -> None:
    (machine / "bin" / "npm").unlink()
    (machine / "bin" / "git").unlink()
    code, said = setup(machine)
    assert code != 0
    assert said[:2] == [
        "setup: git is missing; agents work in its repositories",
        "setup: npm is missing; it installs kilo",
    ]
    assert said[2].removesuffix("apt-get install --yes git npm") != said[2]
    assert said[3:] == ["setup: nothing was downloaded or changed"]


def test_a_python_that_is_not_there_is_named(machine: Path) -> None:
    code, said = setup(machine, "PYTHON=python3.99")
    assert code != 0
    assert said[0] == "setup: PYTHON=python3.99 names no program; name a Python 3.11 or newer, or leave PYTHON out"


def test_a_machine_without_python_is_told_the_package(machine: Path) -> None:
    (machine / "bin" / "python3").unlink()
    _, said = setup(machine)
    assert said[0] == "setup: python3 is missing (3.11 or newer)"
    assert said[1].endswith("apt-get install --yes python3")


def test_a_python_that_is_too_old_is_named_with_its_version(machine: Path) -> None:
    write(machine, "python3", '[ "$1" = --version ] && echo Python 3.9.2 || exit 1')
    _, said = setup(machine)
    assert (
        said[0] == "setup: python3 is Python 3.9.2; Python 3.11 or newer is needed (make setup PYTHON=python3.12)"
    )


def test_a_program_that_does_not_run_is_missing_too(machine: Path) -> None:
    write(machine, "npm", "echo env: node: No such file or directory >&2; exit 127")
    write(machine, "python3", "exit 1")
    _, said = setup(machine)
    assert said[:2] == [
        "setup: python3 does not run: no reason given",
        "setup: npm does not run: env: node: No such file or directory",
    ]


def test_what_lies_on_the_callers_python_path_is_not_looked_at(machine: Path) -> None:
    """pip would take a package there for one that .venv has."""
    (machine / "bin" / "npm").unlink()
    planted = machine / "planted"
    planted.mkdir()
    (planted / "sitecustomize.py").write_text(f"open({str(planted / 'ran')!r}, 'w')")
    setup(machine, PYTHONPATH=str(planted))
    assert not (planted / "ran").exists()
