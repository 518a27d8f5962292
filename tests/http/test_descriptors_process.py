"""A whole `gastown serve` that may have few files open, and clients that want them all."""

from __future__ import annotations

import http.client
import os
import re
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path

import pytest

PROBE_SECONDS = 3


@contextmanager
def serve(folder: Path, soft: int, hard: int) -> Iterator[tuple[int, Path]]:
    """The port of a server with these limits, and its log."""
    log = folder / "log"
    environment = {
        "PATH": os.environ["PATH"],
        "GASTOWN_CONTROL_HOST": "127.0.0.1",
        "GASTOWN_CONTROL_PORT": "0",
        "GASTOWN_KILO_BIN": sys.executable,
        "GASTOWN_WORKSPACE_ROOT": str(folder / "rigs"),
        "GASTOWN_AGENT_HOME_ROOT": str(folder / "homes"),
    }
    command = [sys.executable, "-P", "-m", "gastown", "serve"]
    limit = partial(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
    with log.open("wb") as written, ExitStack() as stack:
        process = subprocess.Popen(command, stderr=written, env=environment, preexec_fn=limit)  # noqa: PLW1509
        stack.callback(process.wait)
        stack.callback(process.kill)
        while (serving := re.search(r'"port": (\d+), "event": "container.serving"', log.read_text())) is None:
            assert process.poll() is None, log.read_text()
        yield int(serving[1]), log


def ask(port: int, path: str) -> str:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PROBE_SECONDS)) as client:
        client.request("GET", path, headers={"Connection": "close"})
        answer = client.getresponse()
        assert answer.status == 200
        return answer.read().decode()


def silent(port: int, number: int) -> list[socket.socket]:
    return [socket.create_connection(("127.0.0.1", port), timeout=PROBE_SECONDS) for _ in range(number)]


@pytest.mark.parametrize(("limit", "connections"), [(128, 107), (64, 100), (256, 306)])
def test_silent_connections_keep_no_descriptor_from_a_probe(tmp_path: Path, limit: int, connections: int) -> None:
    """And the log says so in a few lines, without a traceback (row 11)."""
    with serve(tmp_path, limit, limit) as (port, log):
        held = silent(port, connections)
        for path in ("/health", "/livez", "/readyz"):
            ask(port, path)
        for client in held:
            client.close()
        assert 'gastown_connections{server="control"}' in ask(port, "/metrics")
        text = log.read_text()
        assert "Traceback" not in text
        assert text.count('"event": "connections.cut"') <= 2
        assert '"event": "descriptors.few"' in text


def test_a_connection_that_was_opened_and_closed_leaves_its_descriptor(tmp_path: Path) -> None:
    """306 times, with 256 descriptors (B4)."""
    with serve(tmp_path, 256, 256) as (port, log):
        for client in silent(port, 306):
            client.close()
        ask(port, "/health")
        # The server may not have heard of the last of them yet: each question lets it hear of more.
        asked = (ask(port, "/metrics") for _ in range(306))
        assert any('gastown_connections{server="control"} 1.0' in answer for answer in asked)
        assert "Traceback" not in log.read_text()


def test_the_soft_limit_is_raised_at_boot(tmp_path: Path) -> None:
    with serve(tmp_path, 64, 1000) as (port, _):
        assert 'gastown_connections_limit{server="control"} 333.0' in ask(port, "/metrics")
