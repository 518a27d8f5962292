"""A whole town on real parts: the hall, `gastown serve` as its own process, the real kilo, real sockets."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from gastown.contract.secret import Secret
from gastown.contract.town import Health
from gastown.hall.control_client import ControlCallFailed, ControlClient, open_control_client
from gastown.hall.drivers.process import (
    Container,
    ContainerOptions,
    base_environment,
    choose_port,
    container_environment,
    run_container,
)
from gastown.hall.hall import Hall, HallOptions, open_hall

KILO = Path(__file__).parents[2] / ".tools" / "kilo" / "bin" / "kilo"


@dataclass
class RealTown:
    hall: Hall
    dispatch: ControlClient
    container: Container
    data: Path
    url: str
    bearer: dict[str, str]
    """The header that the control port asks for."""

    def log(self, event: str | None = None) -> list[dict[str, Any]]:
        lines = [
            json.loads(line) for line in (self.data / "serve.log").read_text().splitlines() if line[:1] == "{"
        ]
        return [line for line in lines if event in (None, line["event"])]

    def servers(self) -> list[int]:
        """Only children: what a server forks looks like it until it becomes another program."""
        return [pid for pid in children(self.container.pid) if command_of(pid)[1:2] == ["serve"]]

    def server_of(self, agent_id: str) -> int:
        """The process of an agent's server; 0 when it has none."""
        wanted = f"GASTOWN_AGENT_ID={agent_id}".encode()
        found = (pid for pid in self.servers() if wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
        return next(found, 0)

    def login_of(self, agent_id: str) -> tuple[str, bytes]:
        """User and password of an agent's server, from its environment."""
        entries = Path(f"/proc/{self.server_of(agent_id)}/environ").read_bytes().split(b"\0")
        name = b"KILO_SERVER_PASSWORD="
        return "kilo", next(entry.removeprefix(name) for entry in entries if entry.startswith(name))

    async def prewarmed(self) -> Health:
        async def ready() -> Health | None:
            health = await self.dispatch.health()
            return health if health.hydration.prewarm not in (None, "asking", "running") else None

        health: Health = await eventually(ready)
        return health


@asynccontextmanager
async def real_town(
    data: Path, hall_options: dict[str, Any] | None = None, **environment: str
) -> AsyncIterator[RealTown]:
    """A town in `data` for the length of the block; a second one in the same place is its next container."""
    async with open_hall(HallOptions(data_dir=data, **(hall_options or {}))) as hall:
        port, token = choose_port("127.0.0.1", 0), secrets.token_urlsafe(32)
        environment = {"GASTOWN_KILO_BIN": str(KILO), "GASTOWN_CONTROL_TOKEN": token, **environment}
        child = container_environment(
            base_environment(os.environ) | environment,
            await hall.town(),
            await hall.container_token(),
            api_url=hall.url,
            stand_in=hall.stand_in,
            data_dir=data,
            port=port,
        )
        options = ContainerOptions(
            environment=child, log=data / "serve.log", homes=data / "homes", drain_seconds=30
        )
        url = f"http://127.0.0.1:{port}"
        async with open_control_client(url, Secret(token)) as dispatch, run_container(options) as container:
            town = RealTown(hall, dispatch, container, data, url, {"Authorization": f"Bearer {token}"})
            await eventually(lambda: _answers(dispatch))
            yield town


async def _answers(dispatch: ControlClient) -> Health | None:
    try:
        return await dispatch.health()
    except ControlCallFailed:
        return None


async def eventually(look: Callable[[], Awaitable[Any]], seconds: float = 60) -> Any:
    """The first true answer of `look`, a bounded poll of something that really runs."""
    with trio.fail_after(seconds):
        while not (found := await look()):
            await trio.sleep(0.02)
    return found


def children(pid: int) -> list[int]:
    """None of a process that is gone, or goes meanwhile."""
    found: list[int] = []
    with suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                found += map(int, (thread / "children").read_text().split())
    return found


def descendants(pid: int) -> list[int]:
    found = children(pid)
    return [*found, *(below for child in found for below in descendants(child))]


def command_of(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def alive(pids: list[int]) -> list[int]:
    """Those of `pids` that still run; a zombie does not."""
    return [pid for pid in pids if any(command_of(pid))]
