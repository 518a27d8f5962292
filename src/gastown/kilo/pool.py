"""Pool of `kilo serve` processes: at most one per (workdir, home), reused when the spec fingerprint matches."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import NamedTuple

import structlog
import trio

from gastown.concurrency.locks import NamedLocks
from gastown.concurrency.phases import PhaseLog
from gastown.concurrency.slots import Priority, PrioritySlots, Slot
from gastown.concurrency.waiting import wait_any
from gastown.contract.secret import Secret
from gastown.kilo.client import Endpoint, KiloClient
from gastown.kilo.errors import KiloError, KiloUnreachable, NotReady, ServerDied
from gastown.kilo.rest import KiloRest
from gastown.kilo.server import GRACE_SECONDS, Launcher, RunningServer
from gastown.kilo.spec import ServerSpec
from gastown.kilo.stream import DroppedFrames, KiloEvent, follow_events
from gastown.kilo.terminal import KiloTerminals
from gastown.metrics.counters import Counter

__all__ = ["Lease", "Refused", "Server", "ServerPool", "SpawnTimedOut", "open_pool"]

log = structlog.get_logger()

_RETIRE_BUDGET = GRACE_SECONDS + 4

Connect = Callable[[Endpoint], KiloClient]


class SpawnTimedOut(KiloError):
    """The server was not ready in the time that a spawn has; its process has been ended."""

    def __init__(self, seconds: float, phase: str) -> None:
        super().__init__(f"kilo serve was not ready {seconds:g} s after its spawn (phase {phase})")


_OUTCOMES: Mapping[type[Exception], str] = {
    SpawnTimedOut: "timed_out",
    ServerDied: "died",
    NotReady: "refused",
}


class Server:
    """A server of the pool. It lives until it is retired or dies; `gone` is set when nothing of it is left.

    `asks` counts what it asked a person for, and what it was answered, over all servers.
    """

    def __init__(
        self, spec: ServerSpec, running: RunningServer, client: KiloClient, dropped: DroppedFrames, asks: Counter
    ) -> None:
        self.spec = spec
        self.running = running
        self.rest = KiloRest(client)
        self.asks = asks
        self._dropped = dropped
        self._client = client
        self.leased = False
        self.free = trio.Event()
        self.retirement = trio.Event()
        self.gone = trio.Event()

    @property
    def port(self) -> int | None:
        return self.running.endpoint.port

    @property
    def ended(self) -> trio.Event:
        """Set when the process has ended, whoever ended it."""
        return self.running.ended

    async def follow(
        self,
        take: Callable[[KiloEvent], None],
        reconnected: Callable[[], None],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Give every event to `take` until cancelled. See `follow_events`."""
        await follow_events(self._client, take, reconnected, self._dropped, task_status=task_status)

    def terminals(self) -> KiloTerminals:
        """The terminals of the server's working directory."""
        return KiloTerminals(self._client, self.spec.cwd)

    def lease_out(self) -> None:
        self.leased, self.free = True, trio.Event()

    def give_back(self) -> None:
        self.leased = False
        self.free.set()

    def death(self) -> ServerDied:
        return ServerDied(self.running.exit, self.spec.redacted(self.running.stderr_tail))

    async def explain(self, error: KiloError) -> KiloError:
        """`error`, or the server's death where that is what made a request fail."""
        if isinstance(error, KiloUnreachable):
            with trio.move_on_after(1):
                await self.ended.wait()
            if self.ended.is_set():
                return self.death()
        return error


class Refused(NamedTuple):
    """A server that came up without the tools that it must have, and was not handed out."""

    spec: ServerSpec
    reason: NotReady


class Lease:
    """The use of a server by one agent. Ending the lease ends the server, unless it was parked."""

    def __init__(self, pool: ServerPool, server: Server, slot: Slot | None) -> None:
        self.server = server
        self._pool = pool
        self._slot = slot
        self._parked = False

    def settled(self) -> None:
        """The costly part of the start is over: let the next spawn begin."""
        if self._slot is not None:
            self._slot.release()

    @property
    def leftovers(self) -> tuple[int, ...]:
        """Processes of the server that nothing could end; known after the lease."""
        return self.server.running.leftovers

    def park(self) -> None:
        """Leave the server running after the lease, for a successor whose spec is equal."""
        self._parked = True

    async def spawn_beside(self, spec: ServerSpec, phases: PhaseLog) -> Server:
        """A ready server for `spec` beside the present one, which is not touched. Needs a slot of its own.

        The caller passes it to `replace`, or retires it. Raises what `ServerPool.lease` raises.
        """
        return await self._pool.spawn(spec, phases)

    async def replace(self, successor: Server) -> None:
        """Make `successor` the server of this lease and retire the one before."""
        before, self.server = self.server, successor
        successor.lease_out()
        await self._pool.retire(before)

    async def end(self) -> None:
        """For the pool, which made the lease: leave the server parked, or retire it."""
        self.settled()
        self.server.give_back()
        if not self._parked:
            await self._pool.retire(self.server)


class ServerPool:
    """Made by `open_pool`. All servers live in the pool's nursery and end with it.

    `spawns` and `deaths` count them, `dropped` the frames of their event streams that could not be read, `asks`
    what they asked a person for.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        launch: Launcher,
        connect: Connect,
        slots: PrioritySlots,
        spawn_seconds: float,
        on_refused: Callable[[Refused], None],
    ) -> None:
        self.slots = slots
        self._nursery = nursery
        self._launch = launch
        self._connect = connect
        self._spawn_seconds = spawn_seconds
        self._on_refused = on_refused
        self.refused: dict[tuple[str, str], Refused] = {}
        self.spawns = Counter("gastown_server_spawns_total")
        self.deaths = Counter("gastown_server_deaths_total")
        self.dropped = Counter("gastown_server_frames_dropped_total")
        self.asks = Counter("gastown_server_asks_total")
        self._servers: list[Server] = []
        self._locks = NamedLocks()

    @property
    def servers(self) -> tuple[Server, ...]:
        """Every server whose process lives."""
        return tuple(s for s in self._servers if not s.ended.is_set())

    def secrets(self) -> list[Secret]:
        """What opens the servers that are there now, for the log's redaction."""
        return [server.running.endpoint.password for server in self._servers]

    @asynccontextmanager
    async def lease(
        self, make_spec: Callable[[], ServerSpec], priority: Priority, phases: PhaseLog
    ) -> AsyncIterator[Lease]:
        """A ready server for the length of the block: a parked one of equal spec, else a new one.

        `make_spec` is asked again when the wait for a slot is over, since credentials may have changed
        meanwhile; its working directory and its home may not change.

        Everything that happens to one working directory and home happens under its lock: two callers never
        spawn twice, a server that another lease has is waited for, and a parked server of an unequal spec is
        retired before its successor starts. The wait for others and for a slot is the phase `queue`, then
        come `spawn` and `instance`. A slot that was needed stays taken until `settled()`. Raises `ServerDied`,
        `SpawnTimedOut`, `NotReady` or `KiloRefused`.
        """
        lock = self._locks.of("\0".join(make_spec().key))
        if lock.locked():
            phases.enter("queue")
        async with lock:
            server, slot = await self._reuse(make_spec()), None
            if server is None:
                phases.enter("queue")
                slot = await self.slots.take(priority)
                try:
                    server = await self.spawn(make_spec(), phases)
                except BaseException:
                    slot.release()
                    raise
            server.lease_out()
        lease = Lease(self, server, slot)
        try:
            yield lease
        finally:
            with trio.move_on_after(_RETIRE_BUDGET, shield=True):
                await lease.end()

    async def spawn(self, spec: ServerSpec, phases: PhaseLog) -> Server:
        """Start a server and make sure that it is what was asked for. The caller holds a slot."""
        outcome = "cancelled"
        try:
            server = await self._spawn(spec, phases)
            outcome = "ready"
            return server
        except Exception as error:
            outcome = _OUTCOMES.get(type(error), "failed")
            raise
        finally:
            self.spawns.add(outcome)

    async def _spawn(self, spec: ServerSpec, phases: PhaseLog) -> Server:
        with trio.move_on_after(self._spawn_seconds):
            phases.enter("spawn")
            server: Server = await self._nursery.start(self._host, spec, name=f"kilo {spec.cwd}")
            try:
                phases.enter("instance")
                await self._check_ready(server)
            except BaseException:
                with trio.move_on_after(_RETIRE_BUDGET, shield=True):
                    await self.retire(server)
                raise
            log.info("server.ready", cwd=spec.cwd, pid=server.running.pid, port=server.port)
            return server
        raise SpawnTimedOut(self._spawn_seconds, phases.current)

    async def retire(self, server: Server) -> None:
        """End a server and wait until nothing of it is left."""
        server.retirement.set()
        await server.gone.wait()

    async def discard(self, key: tuple[str, str]) -> None:
        """Retire the parked server of `key`, if there is one that is not leased."""
        for server in list(self._servers):
            if server.spec.key == key and not server.leased:
                await self.retire(server)

    def discard_parked(self) -> None:
        """Let every parked server end, and wait for none of them: leaving the pool does."""
        for server in self._servers:
            if server.free.is_set():
                server.retirement.set()

    async def _reuse(self, spec: ServerSpec) -> Server | None:
        while (server := self._occupant(spec.key)) is not None:
            if server.leased:
                # A start that comes while the prewarm is still at it must not pay for a second server.
                await wait_any(server.free, server.gone)
            elif server.spec.fingerprint == spec.fingerprint and not server.ended.is_set():
                return server
            else:
                log.info("server.unequal", cwd=spec.cwd, differences=server.spec.differences(spec))
                await self.retire(server)
        return None

    def _occupant(self, key: tuple[str, str]) -> Server | None:
        staying = (server for server in self._servers if not server.retirement.is_set())
        return next((server for server in staying if server.spec.key == key), None)

    async def _check_ready(self, server: Server) -> None:
        """Boot the working directory's instance and look for the tools that must be there."""
        try:
            tools = await server.rest.tool_ids(server.spec.cwd)
        except KiloError as error:
            raise await server.explain(error) from error
        spec = server.spec
        self.refused.pop(spec.key, None)
        if missing := spec.required_tools - tools:
            refusal = NotReady(sorted(missing))
            self.refused[spec.key] = Refused(spec, refusal)
            log.error("server.refused", cwd=spec.cwd, missing=refusal.missing)
            self._on_refused(self.refused[spec.key])
            raise refusal

    async def _host(self, spec: ServerSpec, *, task_status: trio.TaskStatus[Server]) -> None:
        """A server's whole life. `started` is reported when it listens; a bug after that ends this server only."""
        server: Server | None = None
        try:
            async with self._launch(spec) as running:
                dropped = DroppedFrames(self.dropped, running.endpoint.port)
                server = Server(spec, running, self._connect(running.endpoint), dropped, self.asks)
                self._servers.append(server)
                task_status.started(server)
                await wait_any(server.retirement, running.ended)
                if not server.retirement.is_set():
                    self.deaths.add()
                    log.warning("server.died", cwd=spec.cwd, pid=running.pid, reason=str(server.death()))
        except Exception:
            if server is None:
                raise
            log.exception("server.crashed", cwd=spec.cwd)  # a boundary: the other servers go on
        finally:
            if server is not None:
                self._servers.remove(server)
                server.gone.set()


@asynccontextmanager
async def open_pool(
    launch: Launcher,
    connect: Connect,
    slots: PrioritySlots,
    *,
    spawn_seconds: float,
    on_refused: Callable[[Refused], None] = lambda _: None,
) -> AsyncIterator[ServerPool]:
    """A pool for the length of the block; leaving it ends every server that is still there.

    `on_refused` hears of every server that came up without its tools.
    """
    async with trio.open_nursery() as nursery:
        yield ServerPool(nursery, launch, connect, slots, spawn_seconds, on_refused)
        nursery.cancel_scope.cancel(reason="the pool closes")
