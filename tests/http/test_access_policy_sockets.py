"""The door on real sockets: what a client of the network meets, and on which address it meets anybody."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
import trio

from gastown.agents.session.event_log import EventLog
from gastown.control.app import create_app
from gastown.control.auth.policy import access_policy
from gastown.control.auth.tickets import Tickets
from gastown.control.server import listen_on, serve_app
from gastown.logs import LiveRedactor
from gastown.testing.sockets import open_socket, refusal
from gastown.testing.town import ToldSettings

GUARD_SECONDS = 60
LARGE = 32 * 1024 * 1024
CONTROL = "canary-control-" * 3
NOW = datetime(2030, 5, 1, 12, 0, tzinfo=UTC)


@asynccontextmanager
async def serving(**settings: Any) -> AsyncIterator[int]:
    """The streams of a town that has nothing else, behind the door of `settings`; its port."""
    told = ToldSettings(base_env={"PATH": "/bin"}, **settings)
    here: Any = SimpleNamespace(
        services=SimpleNamespace(events=EventLog(lambda: NOW)),
        tickets=Tickets(),
        policy=access_policy(told, "127.0.0.1"),
        now=lambda: NOW,
        redactor=LiveRedactor(tuple),
    )
    listener, stop = listen_on("127.0.0.1", 0), trio.Event()
    with trio.fail_after(GUARD_SECONDS):
        async with trio.open_nursery() as nursery:
            await nursery.start(serve_app, create_app(here), listener, stop)
            yield listener.getsockname()[1]
            stop.set()


REFUSED = {
    "a stranger": ({"gastown_control_token": CONTROL}, "Host: localhost", 401),
    "a foreign page": ({}, "Host: localhost\r\nOrigin: https://evil.example", 403),
    "a name that resolves to us": ({}, "Host: evil.example", 403),
}


@pytest.mark.parametrize("who", REFUSED)
async def test_who_is_refused_hears_it_behind_a_large_body_and_may_ask_again(who: str) -> None:
    settings, headers, status = REFUSED[who]
    async with serving(**settings) as port, await trio.open_tcp_stream("127.0.0.1", port) as stream:
        for _ in range(2):
            head = f"POST /agents/start HTTP/1.1\r\n{headers}\r\nContent-Length: {LARGE}\r\n\r\n"
            await stream.send_all(head.encode())
            await stream.send_all(b"x" * LARGE)
            answer = b""
            while not answer.endswith(b"}"):
                more = await stream.receive_some(65536)
                assert more, "closed without an answer"
                answer += more
            assert answer.startswith(f"HTTP/1.1 {status} ".encode())


async def test_who_is_refused_hears_it_before_the_body_has_come() -> None:
    head = b"POST /agents/start HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"
    async with (
        serving(gastown_control_token=CONTROL) as port,
        await trio.open_tcp_stream("127.0.0.1", port) as stream,
    ):
        await stream.send_all(head)
        assert (await stream.receive_some(65536)).startswith(b"HTTP/1.1 401 ")


async def test_a_refused_upgrade_does_not_take_the_server_with_it() -> None:
    async with serving(gastown_control_token=CONTROL) as port, httpx2.AsyncClient(trust_env=False) as client:
        base = f"ws://127.0.0.1:{port}"
        assert (await refusal(client, f"{base}/ws")).status == 401
        client.headers["Origin"] = "https://evil.example"
        assert (await refusal(client, f"{base}/ws")).status == 403
        del client.headers["Origin"]
        client.headers["Authorization"] = f"Bearer {CONTROL}"
        answer = await client.post(f"http://127.0.0.1:{port}/agents/a/stream-ticket")
        del client.headers["Authorization"]
        async with open_socket(client, f"{base}/agents/a/stream?ticket={answer.json()['ticket']}"):
            pass


def listening_addresses(pid: int) -> list[str]:
    """The IPv4 addresses that a process listens on, from /proc."""
    links = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()]
    inodes = {found[1] for link in links if (found := re.fullmatch(r"socket:\[(\d+)\]", link))}
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    found = [row[1].partition(":")[0] for row in rows if row[3] == "0A" and row[9] in inodes]
    return sorted(".".join(str(part) for part in reversed(bytes.fromhex(address))) for address in found)


def environment(folder: Path, **variables: str) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "GASTOWN_KILO_BIN": "/bin/true",
        "GASTOWN_CONTROL_PORT": "0",
        "GASTOWN_WORKSPACE_ROOT": str(folder / "rigs"),
        "GASTOWN_AGENT_HOME_ROOT": str(folder / "homes"),
        **variables,
    }


BINDS: dict[str, tuple[dict[str, str], str, list[str]]] = {
    "nothing": ({}, "127.0.0.1", ["control.unlocked"]),
    "all addresses": ({"GASTOWN_CONTROL_HOST": "0.0.0.0"}, "127.0.0.1", ["control.unlocked"]),
    "a token": ({"GASTOWN_CONTROL_TOKEN": CONTROL}, "0.0.0.0", []),
    "insecure": ({"GASTOWN_INSECURE": "1"}, "0.0.0.0", ["control.open_to_all"]),
}


@pytest.mark.parametrize("told", BINDS)
async def test_where_a_container_listens(tmp_path: Path, told: str) -> None:
    variables, address, warnings = BINDS[told]
    command = [sys.executable, "-m", "gastown", "serve"]
    with trio.fail_after(GUARD_SECONDS):
        process = await trio.lowlevel.open_process(
            command, env=environment(tmp_path, **variables), stderr=subprocess.PIPE
        )
        try:
            log = b""
            while b"container.serving" not in log:
                more = await process.stderr.receive_some(65536)
                assert more, log.decode()
                log += more
            broker = "127.0.0.1"
            assert sorted(listening_addresses(process.pid)) == sorted([address, broker])
            process.send_signal(signal.SIGTERM)
            async for more in process.stderr:
                log += more
            await process.wait()
        finally:
            process.kill()
    assert process.returncode == 0
    assert [event for event in re.findall(r'"event": ?"([^"]+)"', log.decode()) if "control." in event] == warnings
    assert "canary" not in log.decode()


async def test_a_container_that_may_not_listen_where_it_should_says_so_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "gastown", "serve"]
    env = environment(tmp_path, GASTOWN_CONTROL_HOST="192.0.2.7")
    done = await trio.run_process(command, env=env, check=False, capture_stderr=True)
    assert done.returncode == 2
    (told,) = [line for line in done.stderr.decode().splitlines() if not line.startswith("{")]  # the log is JSON
    assert told.startswith("gastown: GASTOWN_CONTROL_HOST is 192.0.2.7 and there is no token: set ")
