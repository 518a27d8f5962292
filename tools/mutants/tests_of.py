"""Which tests run which line: measured once, and kept as long as neither the code nor the tests change."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from coverage import CoverageData

from tools.mutants.contexts import DURATIONS

__all__ = ["Map", "measured"]

_SOME_FAILED = 1


@dataclass(frozen=True)
class Map:
    """`lines` is, per file below src/, the tests of each line; `seconds` how long each test took that passed.

    One that fails without a mutant cannot tell that there is one, and is left out.
    """

    lines: dict[str, dict[int, list[str]]]
    seconds: dict[str, float]

    def tests(self, name: str, line: int) -> list[str]:
        """The tests that run a line, the shortest first. A line that runs at import has all tests of its file."""
        of_file = self.lines.get(name, {})
        found = set(of_file.get(line, ()))
        if "" in found:
            found = {test for tests in of_file.values() for test in tests}
        return sorted(found & self.seconds.keys(), key=lambda test: (self.seconds[test], test))


def measured(repository: Path, folders: Sequence[str], cache: Path) -> Map:
    """The map of the tests in `folders`; when `cache` has none for this code, one run makes it."""
    kept = cache / _fingerprint(repository, folders)
    if not (kept / "done").exists():
        kept.mkdir(parents=True, exist_ok=True)
        sys.stderr.write(f"mutants: one run of {' '.join(folders)} to see which test runs which line\n")
        environment = os.environ | {"COVERAGE_FILE": str(kept / "coverage"), DURATIONS: str(kept / "seconds.json")}
        command = [sys.executable, "-m", "coverage", "run", "-m", "pytest", "-q", "-p", "tools.mutants.contexts"]
        done = subprocess.run([*command, *folders], cwd=repository, env=environment, check=False)
        if done.returncode not in (0, _SOME_FAILED):
            raise SystemExit("mutants: the tests do not run")
        (kept / "done").touch()
    data = CoverageData(str(kept / "coverage"))
    data.read()
    source = repository / "src"
    lines = {
        Path(file).relative_to(source).as_posix(): data.contexts_by_lineno(file)
        for file in data.measured_files()
        if Path(file).is_relative_to(source)
    }
    return Map(lines, json.loads((kept / "seconds.json").read_text("utf-8")))


def _fingerprint(repository: Path, folders: Sequence[str]) -> str:
    """Changes when a file below src/ or tests/ does, or the choice of folders."""
    told = hashlib.sha256("\0".join(folders).encode())
    for folder in ("src", "tests"):
        for path in sorted((repository / folder).rglob("*.py")):
            told.update(path.read_bytes())
    return told.hexdigest()[:16]
