"""One mutant at a time in a copy of the code: do the tests that run its line notice it?"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import cache_from_source
from pathlib import Path

from tools.mutants.contexts import CHOSEN
from tools.mutants.mutate import Mutant

__all__ = ["Scratch", "scratch"]

_MOST_BYTES = 4 << 30
"""What a mutant that allocates for ever gets."""
_NO_TESTS_RAN = 5


class Scratch:
    """A copy of src/ that the tests of the repository import in place of the original."""

    def __init__(self, repository: Path, folder: Path) -> None:
        self._repository = repository
        self._folder = folder

    def verdict(self, mutant: Mutant, tests: Sequence[str], seconds: float) -> str:
        """`caught`, `survived`, or `hang` where the tests do not end within `seconds`; `error` where none ran."""
        original = mutant.path.read_bytes()
        copy = self._folder / mutant.path.relative_to(self._repository)
        try:
            self._write(copy, mutant.applied(original))
            return self._tested(tests, seconds)
        finally:
            self._write(copy, original)

    def _write(self, copy: Path, source: bytes) -> None:
        copy.write_bytes(source)
        # The bytecode is trusted for a file of the same size and second.
        Path(cache_from_source(str(copy))).unlink(missing_ok=True)

    def _tested(self, tests: Sequence[str], seconds: float) -> str:
        chosen = self._folder / "tests.json"
        chosen.write_text(json.dumps(tests), "utf-8")
        files = sorted({test.partition("::")[0] for test in tests})
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "tools.mutants.contexts", *files]
        options = ["-p", "no:cacheprovider", "-o", "faulthandler_timeout=0", "--hypothesis-seed=0"]
        environment = os.environ | {CHOSEN: str(chosen), "PYTHONPATH": str(self._folder / "src")}
        with (self._folder / "output").open("wb") as output:
            process = subprocess.Popen(
                [*command, *options],
                cwd=self._repository,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            try:
                resource.prlimit(process.pid, resource.RLIMIT_DATA, (_MOST_BYTES, _MOST_BYTES))
                code = process.wait(seconds)
            except subprocess.TimeoutExpired:
                return "hang"
            finally:
                _end(process)
        if code == 0:
            return "survived"
        return "error" if code == _NO_TESTS_RAN else "caught"


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the tests and what they started in their session, whatever they wait for."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextmanager
def scratch(repository: Path) -> Iterator[Scratch]:
    """A scratch copy for the length of the block; nothing of it is left, also after Ctrl-C."""
    with tempfile.TemporaryDirectory(prefix="gastown-mutants-") as folder:
        shutil.copytree(repository / "src", Path(folder) / "src", ignore=shutil.ignore_patterns("__pycache__"))
        yield Scratch(repository, Path(folder))
