"""`/livez` of a whole process whose event loop stands still for the likeliest reason: nobody reads its log."""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import re
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
        command = [sys.executable, "-m", "gastown", "serve"]
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

    def chatter(self, over: threading.Event) -> None:
        """Make it log a warning, again and again."""
        while not over.is_set():
            with suppress(OSError):
                headers = {"X-Town-Config": "nonsense"}
                self.ask("POST", "/sync-config", headers=headers, seconds=GUARD_SECONDS)

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


def test_a_process_whose_loop_is_stuck_in_its_log_answers_from_its_thread_and_goes_on_afterwards(
    container: Container,
) -> None:
    over = threading.Event()
    chatter = threading.Thread(target=container.chatter, args=(over,))
    chatter.start()
    try:
        stalled = container.await_status("stalled")
        assert stalled["stalledSeconds"] >= 1
        container.read_log()
        assert container.await_status("ok")["stalledSeconds"] == 0
    finally:
        over.set()
        container.process.terminate()
        chatter.join(GUARD_SECONDS)
    assert container.process.wait(GUARD_SECONDS) == 0
