"""`python -m tools.site [FOLDER]`: builds the site into a folder, `site` by default."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tools.site.pages import REPOSITORY, stage

__all__ = ["NotBuilt", "build", "main"]

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class NotBuilt(Exception):
    """The generator found something wrong; the message is what it said."""


def build(target: Path) -> None:
    """Build the site into `target`, in place of what is there. A broken link or anchor raises `NotBuilt`."""
    with tempfile.TemporaryDirectory(prefix="gastown-site-") as folder:
        config = stage(Path(folder))
        command = [sys.executable, "-m", "zensical", "build", "--strict", "--config-file", str(config)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            said = _COLOURS.sub("", done.stderr + done.stdout)
            raise NotBuilt(said.partition("Traceback")[0].strip() or said)
        shutil.rmtree(target, ignore_errors=True)
        shutil.move(Path(folder) / "site", target)


def main() -> int:
    target = Path(sys.argv[1]) if sys.argv[1:] else REPOSITORY / "site"
    try:
        build(target)
    except NotBuilt as problem:
        sys.stderr.write(f"{problem}\n")
        return 1
    sys.stdout.write(f"site: {target / 'index.html'}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
