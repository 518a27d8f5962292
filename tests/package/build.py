"""Building gastown as `make dist` does, with what the locks have brought: no network, no isolation."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def build(kind: str, source: Path, folder: Path) -> Path:
    """The sdist or wheel of the source tree, made into `folder`, which is made too."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", kind, "--directory", str(folder)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (built,) = folder.iterdir()
    return built
