"""The composition root: what opens in which order, and how it ends.

services nursery                  a crash of a service in here ends the process, on purpose
├─ registry writer · telemetry    the worker link
├─ server pool                    one task per kilo server
├─ roster                         one task per agent
└─ front nursery
   ├─ hypercorn                   /health answers before hydration has begun
   ├─ boot hydration              supervised; opens the gate whatever happens
   └─ signals                     1st TERM = drain, 2nd = shorten the budget, 3rd = leave now
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx2
import structlog
import trio
from pydantic import SecretStr

from gastown import logs
from gastown.agents.environment import ChildDefaults
from gastown.agents.events import EventLog
from gastown.agents.roster import open_roster
from gastown.agents.services import AgentServices, Deadlines
from gastown.boot.hydrate import Hydration, hydrate
from gastown.boot.report import BootReport
from gastown.concurrency.gate import HydrationGate
from gastown.concurrency.leaving import Leaving
from gastown.concurrency.slots import PrioritySlots
from gastown.contract.town import TownConfig
from gastown.control.app import create_app
from gastown.control.context import DrainFlag, Town
from gastown.control.server import listen_on, serve_app
from gastown.git.workspace import WorkspacePaths
from gastown.kilo.binary import find_kilo
from gastown.kilo.pool import open_pool
from gastown.kilo.server import Launcher, launch
from gastown.settings import Settings
from gastown.worker.client import WorkerClient
from gastown.worker.registry import RegistryWriter, open_registry_writer
from gastown.worker.snapshots import Snapshots
from gastown.worker.telemetry import open_telemetry
from gastown.worker.tokens import Credentials, LiveCredentials

__all__ = ["Open", "Parts", "open_town", "serve"]

log = structlog.get_logger()

START_MARGIN_SECONDS = 2.0
"""A start answers this long before its caller gives up, so that the caller hears why."""


@dataclass(frozen=True)
class Parts:
    """What the town is made of and a test may replace."""

    settings: Settings
    kilo_bin: str
    launch: Launcher
    kilo_client: httpx2.AsyncClient
    worker_client: httpx2.AsyncClient
    now: Callable[[], datetime]
    process_start: float
    """When the process started, on Trio's clock."""


@dataclass(frozen=True)
class Open:
    """An open town: what serves, what hydrates, what is written last. The latter two need a worker."""

    town: Town
    hydration: Hydration | None
    registry: RegistryWriter | None


@asynccontextmanager
async def open_town(parts: Parts) -> AsyncIterator[Open]:
    """All services of a container, without a socket and without hydration, for the length of the block."""
    settings = parts.settings
    credentials = LiveCredentials(initial_credentials(settings))
    worker = open_worker(settings, parts.worker_client, credentials)
    slots = PrioritySlots(settings.gastown_spawn_slots)
    async with AsyncExitStack() as stack:
        telemetry = await stack.enter_async_context(open_telemetry(worker))
        pool = await stack.enter_async_context(
            open_pool(parts.launch, parts.kilo_client, slots, spawn_seconds=settings.gastown_spawn_seconds)
        )
        services = AgentServices(
            pool=pool,
            snapshots=Snapshots(worker),
            telemetry=telemetry,
            credentials=credentials,
            defaults=child_defaults(settings, parts.kilo_bin),
            paths=WorkspacePaths(settings.gastown_workspace_root),
            events=EventLog(parts.now),
            deadlines=Deadlines(
                start=settings.gastown_start_seconds,
                refresh=settings.gastown_refresh_seconds,
                first_word=settings.gastown_first_word_seconds,
                stalled=settings.gastown_stalled_seconds,
            ),
            restarts=trio.CapacityLimiter(max(1, slots.capacity // 2)),
            now=parts.now,
            server_rss_mb=settings.gastown_server_rss_mb,
        )
        writers: list[RegistryWriter] = []

        def changed() -> None:
            for writer in writers:
                writer.changed()

        roster = await stack.enter_async_context(open_roster(services, changed))
        if worker is not None:
            writers.append(await stack.enter_async_context(open_registry_writer(worker, roster.registry)))
        background = await stack.enter_async_context(trio.open_nursery())
        report, gate = BootReport(parts.process_start), HydrationGate()
        town = Town(
            roster=roster,
            services=services,
            gate=gate,
            report=report,
            drain=DrainFlag(),
            background=background,
            dashboard_file=Path(settings.gastown_agent_home_root) / "gastown-dashboard-context.json",
            started_at=parts.now(),
            process_start=parts.process_start,
            start_seconds=settings.gastown_start_seconds,
            start_margin=min(START_MARGIN_SECONDS, settings.gastown_start_seconds / 10),
            now=parts.now,
        )
        hydration = None
        if worker is not None:
            hydration = Hydration(gate, worker, roster, writers[0], report, settings.gastown_gate_seconds)
        yield Open(town, hydration, writers[0] if writers else None)
        background.cancel_scope.cancel(reason="the town closes")


def initial_credentials(settings: Settings) -> Credentials:
    def plain(secret: SecretStr | None) -> str | None:
        return secret.get_secret_value() if secret is not None else None

    return Credentials(
        container_token=plain(settings.gastown_container_token),
        session_token=plain(settings.gastown_session_token),
        town=TownConfig(),
    )


def open_worker(
    settings: Settings, client: httpx2.AsyncClient, credentials: LiveCredentials
) -> WorkerClient | None:
    """The worker's client, or None where the container was given no worker."""
    if settings.gastown_api_url is None or settings.gastown_town_id is None:
        return None
    return WorkerClient(client, settings.gastown_api_url, settings.gastown_town_id, credentials)


def child_defaults(settings: Settings, kilo_bin: str) -> ChildDefaults:
    token = settings.kilocode_token
    return ChildDefaults(
        kilo_bin=kilo_bin,
        home_root=settings.gastown_agent_home_root,
        base_env=settings.base_env,
        parent_pid=os.getpid(),
        api_url=settings.gastown_api_url,
        kilocode_token=token.get_secret_value() if token else None,
        organization_id=settings.gastown_organization_id,
        mayor_tools=frozenset(settings.gastown_mayor_tools),
    )


async def serve(settings: Settings) -> None:
    """Run the container until it is told to leave. Raises `CannotListen` and `KiloMissing` before it serves."""
    kilo_bin = find_kilo(settings.gastown_kilo_bin, settings.path)
    listener = listen_on(settings.gastown_control_host, settings.gastown_control_port)
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=20)
    async with (
        httpx2.AsyncClient(trust_env=False, limits=limits) as kilo_client,
        httpx2.AsyncClient(limits=limits) as worker_client,
    ):
        parts = Parts(
            settings=settings,
            kilo_bin=kilo_bin,
            launch=launch,
            kilo_client=kilo_client,
            worker_client=worker_client,
            now=lambda: datetime.now(UTC),
            process_start=trio.current_time() - _process_age(),
        )
        async with open_town(parts) as opened:
            current = opened.town.services.credentials
            logs.configure(lambda: _secrets(settings, current.current))
            leaving = Leaving(settings.gastown_drain_seconds)
            async with trio.open_nursery() as watches:
                await watches.start(leaving.heed_signals, name="signals")
                if settings.gastown_parent_pid is not None:
                    watches.start_soon(leaving.watch_parent, settings.gastown_parent_pid, name="parent watch")
                await _serve_until_told(opened, listener, leaving)
                watches.cancel_scope.cancel(reason="the server has stopped")
    log.info("container.left")


async def _serve_until_told(opened: Open, listener: socket.socket, leaving: Leaving) -> None:
    """The front: the server, beside it boot hydration, then the drain while the server still answers."""
    stop, hydrating = trio.Event(), trio.CancelScope()
    host, port = listener.getsockname()[:2]
    async with trio.open_nursery() as front:
        await front.start(serve_app, create_app(opened.town), listener, stop, name="hypercorn")
        log.info("container.serving", host=host, port=port)
        front.start_soon(_hydrate, opened.hydration, hydrating, name="boot hydration")
        await leaving.told.wait()
        hydrating.cancel(reason="the container drains")
        await drain(opened, leaving.budget)
        stop.set()


def _secrets(settings: Settings, credentials: Credentials) -> list[str]:
    fixed = [secret.get_secret_value() for secret in (settings.kilocode_token,) if secret is not None]
    return [*fixed, *credentials.secrets()]


async def _hydrate(hydration: Hydration | None, scope: trio.CancelScope) -> None:
    with scope:
        if hydration is not None:
            await hydrate(hydration)


async def drain(opened: Open, budget: trio.CancelScope) -> None:
    """Take no new agents, end those that are there, and have the registry written, in one budget."""
    opened.town.drain.is_set = True
    with budget:
        await opened.town.roster.evict_all()
        if opened.registry is not None:
            await opened.registry.flushed()
    log.info("container.drained", in_time=not budget.cancelled_caught)


def _process_age() -> float:
    """Seconds since this process started, from /proc (clock ticks, 10 ms)."""
    stat = Path("/proc/self/stat").read_text()
    ticks = int(stat.rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
