"""`gastown[testing]`: the harness for tests of other people's orchestrators, as its how-to shows it."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.metadata import Metadata
from packaging.requirements import Requirement

from gastown import __version__
from tests.package.build import REPOSITORY, build

HOW_TO = REPOSITORY / "docs" / "how-to" / "test-an-orchestrator.md"


def blocks(language: str) -> list[str]:
    """The code blocks of the how-to."""
    return re.findall(rf"^```{language}\n(.*?)^```$", HOW_TO.read_text("utf-8"), re.DOTALL | re.MULTILINE)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project of somebody else's, with the conftest and the test of the how-to."""
    (conftest,) = re.findall(r"echo '(.*)' >> conftest.py", "".join(blocks("console")))
    (tmp_path / "conftest.py").write_text(f"{conftest}\n")
    test, *_ = blocks("python")
    (tmp_path / "test_orchestrator.py").write_text(test)
    return tmp_path


def run_pytest(project: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:schemathesis"]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, check=False, timeout=300)


def test_the_test_of_the_how_to_passes(project: Path) -> None:
    """The code block of the how-to, of about 30 lines, is a whole test in a project without any configuration."""
    ended = run_pytest(project)
    assert "1 passed" in ended.stdout, ended.stdout
    assert ended.returncode == 0
    assert blocks("python")[0].count("\n") <= 35


def test_the_test_of_the_how_to_fails_for_an_orchestrator_that_is_never_called(project: Path) -> None:
    """It is the project's app that the container reports to: without it, nothing arrives."""
    test = project / "test_orchestrator.py"
    text = test.read_text("utf-8")
    test.write_text(text.replace("open_town(orchestrator=orchestrator(told))", "open_town()"))
    assert text != test.read_text("utf-8")
    ended = run_pytest(project)
    assert "KeyError: 'rigs/rig-1/agents/pole-1/completed'" in ended.stdout, ended.stdout


def test_pytest_comes_with_the_extra_alone(tmp_path: Path) -> None:
    """Somebody who runs a town gets no pytest, and somebody who asks for the extra gets all of it."""
    wheel = build("wheel", REPOSITORY, tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        metadata = Metadata.from_email(archive.read(f"gastown-{__version__}.dist-info/METADATA"), validate=True)
        assert "gastown/testing/plugin.py" in archive.namelist()
        entry_points = archive.read(f"gastown-{__version__}.dist-info/entry_points.txt").decode()
    assert metadata.provides_extra == ["testing"]
    asked = [Requirement(str(needed)) for needed in metadata.requires_dist or []]
    conditional = {needed.name: str(needed.marker) for needed in asked if needed.marker is not None}
    assert conditional == dict.fromkeys(["pytest", "pytest-trio"], 'extra == "testing"')
    assert "pytest11" not in entry_points


def test_a_town_runs_without_the_harness_and_without_pytest() -> None:
    """Neither `gastown serve` nor `gastown up` imports a fake, or what the extra brings."""
    program = "import gastown.main, gastown.hall.cli.up, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert {name for name in loaded.split() if name.startswith(("gastown.testing", "pytest", "_pytest"))} == set()
