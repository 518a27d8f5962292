"""`/livez` of a whole process: with a log that nobody reads, and with an event loop that stands still."""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

GUARD_SECONDS = 60
PROBE_SECONDS = 3
PIPE_BYTES = 4096
WARNINGS = 200
STANDS_STILL_ON_A_SIGNAL = """
import signal, sys
from pathlib import Path
from gastown.cli import main

signal.signal(signal.SIGUSR1, lambda *_: Path(sys.argv[1]).read_text())
raise SystemExit(main(["serve"]))
"""
"""Until somebody writes to the pipe of that name: a loop that waits for a file."""


class Container:
    """`gastown serve` with a log that is read only as far as somebody asks for it."""

    def __init__(self, folder: Path) -> None:
        self._log, ours = os.pipe()
        fcntl.fcntl(ours, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        environment = {
            "PATH": os.environ["PATH"],
            "GASTOWN_CONTROL_HOST": "127.0.0.1",
            "GASTOWN_CONTROL_PORT": "0",
            "GASTOWN_KILO_BIN": sys.executable,
            "GASTOWN_WORKSPACE_ROOT": str(folder / "rigs"),
            "GASTOWN_AGENT_HOME_ROOT": str(folder / "homes"),
        }
        self.held_by = folder / "pipe"
        os.mkfifo(self.held_by)
        command = [sys.executable, "-c", STANDS_STILL_ON_A_SIGNAL, str(self.held_by)]
        self.process = subprocess.Popen(command, stderr=ours, env=environment)
        os.close(ours)
        text = ""
        while (serving := re.search(r'"port": (\d+), "event": "container.serving"', text)) is None:
            piece = os.read(self._log, PIPE_BYTES)
            assert piece, f"it ended: {text}"
            text += piece.decode()
        self.port = int(serving[1])

    def ask(self, method: str, path: str, *, headers: dict[str, str] | None = None, seconds: float) -> Any:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=seconds)) as client:
            client.request(method, path, headers={"Connection": "close", **(headers or {})})
            return json.loads(client.getresponse().read())

    def warn(self) -> None:
        """Make it log a warning."""
        self.ask("POST", "/sync-config", headers={"X-Town-Config": "nonsense"}, seconds=GUARD_SECONDS)

    def await_status(self, status: str) -> dict[str, Any]:
        """Ask /livez until it says that, as a probe does: one that the loop took just before it stood still gets
        no answer in time, and the next one does.
        """
        end = time.monotonic() + GUARD_SECONDS
        while time.monotonic() < end:
            with suppress(TimeoutError):
                answer = self.ask("GET", "/livez", seconds=PROBE_SECONDS)
                if answer["status"] == status:
                    return answer
        raise AssertionError(f"/livez never said {status}")

    def read_log(self) -> None:
        """From now on the log is read, to its end."""
        threading.Thread(target=self._read_log, daemon=True).start()

    def _read_log(self) -> None:
        while os.read(self._log, 65536):
            pass
        os.close(self._log)


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Container]:
    container = Container(tmp_path)
    try:
        yield container
    finally:
        container.process.kill()
        container.process.wait()


def test_a_process_whose_log_nobody_reads_goes_on(container: Container) -> None:
    """The warnings are several times what the pipe holds."""
    for _ in range(WARNINGS):
        container.warn()
    assert container.await_status("ok")["stalledSeconds"] == 0
    container.process.terminate()
    assert container.process.wait(GUARD_SECONDS) == 0


def test_a_process_whose_loop_stands_still_answers_from_its_thread_and_goes_on_afterwards(
    container: Container,
) -> None:
    container.read_log()
    container.process.send_signal(signal.SIGUSR1)
    assert container.await_status("stalled")["stalledSeconds"] >= 1
    container.held_by.write_text("")
    assert container.await_status("ok")["stalledSeconds"] == 0
    container.process.terminate()
    assert container.process.wait(GUARD_SECONDS) == 0
