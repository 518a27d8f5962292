"""Launchers of fake kilo servers: what `gastown.kilo.server.launch` is to real ones."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from signal import Signals
from typing import Any

import trio

from gastown.concurrency.processes import Exit
from gastown.contract.secret import Secret
from gastown.kilo.client import Endpoint
from gastown.kilo.errors import ServerDied
from gastown.kilo.spec import ServerSpec
from gastown.testing.kilo import FakeKilo, Home, Script
from gastown.testing.network import MemoryNetwork

__all__ = [
    "CrashingKilo",
    "DyingKilo",
    "FailingPromptKilo",
    "FakeLauncher",
    "FakeServer",
    "Fate",
    "NeverKilo",
    "SlowKilo",
    "Spawn",
]

SPAWN_SECONDS = 2.0
STOP_SECONDS = 0.3
BROKEN_DATABASE = ("SQLiteError: file is not a database", '  code: "SQLITE_NOTADB"')


@dataclass(frozen=True)
class Fate:
    """What becomes of a spawn: after `seconds` (inf for never) it listens, or ends with `exit`.

    `dies_after` is when a server that listened ends by itself, with `exit` or killed.
    """

    seconds: float = SPAWN_SECONDS
    exit: Exit | None = None
    stderr: tuple[str, ...] = ()
    dies_after: float = math.inf


@dataclass
class Spawn:
    """One call of the launcher. `number` counts the spawns of its agent from 1; times are on Trio's clock."""

    spec: ServerSpec
    number: int
    began: float
    listened: float | None = None
    ended: float | None = None
    ended_by_cancel: bool = False

    @property
    def agent_id(self) -> str:
        return self.spec.env["GASTOWN_AGENT_ID"]


class FakeServer:
    """A server that listens; what `RunningServer` promises, and the fake that answers."""

    def __init__(self, spawn: Spawn, kilo: FakeKilo, endpoint: Endpoint, pid: int) -> None:
        self.spawn = spawn
        self.kilo = kilo
        self.endpoint = endpoint
        self.pid = pid
        self.ended = trio.Event()
        self.exit: Exit | None = None
        self.stderr_tail: tuple[str, ...] = ()
        self.leftovers: tuple[int, ...] = ()

    @property
    def port(self) -> int:
        return int(self.endpoint.url.rpartition(":")[2])

    @property
    def spec(self) -> ServerSpec:
        return self.spawn.spec


class FakeLauncher:
    """Starts fake servers in a network.

    Every spawn gets the fate that `fate(spawn)` says, and its server the script of its agent in `scripts`, or
    the common `script`. `spawns` are all of them in order, `live` the servers that listen now, `peak` how many
    came up at the same time.
    """

    def __init__(
        self,
        network: MemoryNetwork,
        spawn_seconds: float = SPAWN_SECONDS,
        *,
        script: Script | None = None,
        fate: Callable[[Spawn], Fate] | None = None,
    ) -> None:
        self.network = network
        self.script = script or Script()
        self.scripts: dict[str, Script] = {}
        self.fate = fate or (lambda _: Fate(spawn_seconds))
        self.homes: dict[str, Home] = {}
        self.spawns: list[Spawn] = []
        self.live: list[FakeServer] = []
        self.peak = 0
        self.stop_seconds = STOP_SECONDS
        self._coming_up = 0
        self._numbers: defaultdict[str, Any] = defaultdict(lambda: count(1))
        self._ports = count(34_000)
        self._pids = count(1_000)

    @property
    def order(self) -> list[str]:
        """The agents of the spawns, in the order in which they began."""
        return [spawn.agent_id for spawn in self.spawns]

    def server(self, agent_id: str) -> FakeServer:
        """The newest live server of an agent."""
        return next(server for server in reversed(self.live) if server.spawn.agent_id == agent_id)

    def home(self, agent_id: str) -> Home:
        """What the agent's database holds; made when it is asked for first."""
        return self.homes.setdefault(agent_id, Home(agent_id))

    def kill(self, server: FakeServer, number: Signals = Signals.SIGKILL, stderr: tuple[str, ...] = ()) -> None:
        """End a live server at once: open turns stay open in its database."""
        self._end(server, Exit(-number), stderr)

    @asynccontextmanager
    async def __call__(self, spec: ServerSpec) -> AsyncIterator[FakeServer]:
        agent_id = spec.env["GASTOWN_AGENT_ID"]
        spawn = Spawn(spec, next(self._numbers[agent_id]), trio.current_time())
        self.spawns.append(spawn)
        fate = self.fate(spawn)
        try:
            await self._come_up(spec, fate)
            async with trio.open_nursery() as nursery:
                server = self._listen(nursery, spawn)
                nursery.start_soon(self._die_later, server, fate, name="fate")
                try:
                    yield server
                finally:
                    with trio.move_on_after(60, shield=True):
                        await self._terminate(server)
                    nursery.cancel_scope.cancel(reason="the server has ended")
        except trio.Cancelled:
            spawn.ended_by_cancel = True
            raise
        except BaseExceptionGroup as group:
            spawn.ended_by_cancel = group.subgroup(trio.Cancelled) is not None
            raise
        finally:
            spawn.ended = trio.current_time()

    async def _come_up(self, spec: ServerSpec, fate: Fate) -> None:
        self._coming_up += 1
        self.peak = max(self.peak, self._coming_up)
        try:
            await trio.sleep(fate.seconds)
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await trio.sleep(self.stop_seconds)
            raise
        finally:
            self._coming_up -= 1
        if fate.exit is not None and math.isinf(fate.dies_after):
            raise ServerDied(fate.exit, spec.redacted(fate.stderr))

    def _listen(self, nursery: trio.Nursery, spawn: Spawn) -> FakeServer:
        config = json.loads(spawn.spec.env["KILO_CONFIG_CONTENT"])
        port = next(self._ports)
        # Of no shape that the log's redaction knows: where it gets to, a test sees it.
        endpoint = Endpoint(f"http://127.0.0.1:{port}", Secret(f"canary-password-{port}"))
        kilo = FakeKilo(
            nursery,
            self.home(spawn.agent_id),
            self.scripts.get(spawn.agent_id, self.script),
            tuple(config["provider"]["kilo"]["models"]),
            endpoint.password.reveal(),
        )
        spawn.listened = trio.current_time()
        server = FakeServer(spawn, kilo, endpoint, next(self._pids))
        self.live.append(server)
        self.network.serve(kilo.app, "127.0.0.1", server.port)
        return server

    async def _die_later(self, server: FakeServer, fate: Fate) -> None:
        if math.isfinite(fate.dies_after):
            await trio.sleep(fate.dies_after)
            self._end(server, fate.exit or Exit(-Signals.SIGKILL), fate.stderr)

    async def _terminate(self, server: FakeServer) -> None:
        if not server.ended.is_set():
            server.kilo.interrupt()
            await trio.sleep(self.stop_seconds)
            self._end(server, Exit(0), ())

    def _end(self, server: FakeServer, how: Exit, stderr: tuple[str, ...]) -> None:
        if server.ended.is_set():
            return
        server.exit, server.stderr_tail = how, stderr
        server.kilo.killed = True
        self.live.remove(server)
        self.network.withdraw("127.0.0.1", server.port)
        server.ended.set()


class SlowKilo(FakeLauncher):
    """Needs `spawn_seconds`, which is more than a caller likes to wait."""

    def __init__(self, network: MemoryNetwork, spawn_seconds: float = 25.0, **options: Any) -> None:
        super().__init__(network, spawn_seconds, **options)


class NeverKilo(FakeLauncher):
    """Never listens."""

    def __init__(self, network: MemoryNetwork, **options: Any) -> None:
        super().__init__(network, math.inf, **options)


class CrashingKilo(FakeLauncher):
    """Ends at start, `times` times per agent and then no more; `stderr` may say `BROKEN_DATABASE`."""

    def __init__(
        self,
        network: MemoryNetwork,
        *,
        returncode: int = 1,
        stderr: tuple[str, ...] = ("Error: it cannot go on",),
        times: float = math.inf,
        **options: Any,
    ) -> None:
        crash = Fate(1.0, Exit(returncode), stderr)
        super().__init__(network, fate=lambda s: crash if s.number <= times else Fate(), **options)


class DyingKilo(FakeLauncher):
    """Listens, and is killed `seconds` later."""

    def __init__(
        self, network: MemoryNetwork, seconds: float, stderr: tuple[str, ...] = (), **options: Any
    ) -> None:
        super().__init__(network, fate=lambda _: Fate(stderr=stderr, dies_after=seconds), **options)


class FailingPromptKilo(FakeLauncher):
    """Comes up well, and the gateway answers every turn with `status`."""

    def __init__(self, network: MemoryNetwork, status: int, **options: Any) -> None:
        super().__init__(network, script=Script(status=status), **options)
