"""Text is UTF-8 here, whatever the locale of the machine says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
COMMAND = str(Path(sys.executable).with_name("gastown"))
SHOW = "import sys, os; print(sys.flags.utf8_mode, sys.getfilesystemencoding(), sys.stdout.encoding)"


def test_every_file_that_the_source_opens_as_text_names_its_encoding() -> None:
    ruff = [sys.executable, "-m", "ruff", "check", "--preview", "--select", "PLW1514", "--no-cache", "src"]
    done = subprocess.run(ruff, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("locale", [{"LC_ALL": "C", "PYTHONUTF8": "0"}, {"LC_ALL": "POSIX", "PYTHONUTF8": "0"}])
@pytest.mark.parametrize(
    "command", [[COMMAND], [sys.executable, "-P", "-m", "gastown"]], ids=["command", "module"]
)
def test_a_command_runs_in_utf_8_in_any_locale(command: list[str], locale: dict[str, str], tmp_path: Path) -> None:
    """Without it, a folder with an ü in its name could not even be named in the complaint."""
    folder = tmp_path / "mühle"
    folder.write_text("a file")
    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), **locale}
    done = subprocess.run(
        [*command, "up", "--dir", str(folder / "🤖")], env=env, capture_output=True, timeout=30, check=False
    )
    assert done.returncode == 2
    assert "mühle/🤖" in done.stderr.decode()
