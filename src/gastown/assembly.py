"""A town put together: every service of a container, in the order in which each needs the others."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial

import httpx2
import structlog
import trio

from gastown.agents.drain.agent import AgentDrainParts
from gastown.agents.drain.town import Drain, DrainParts
from gastown.agents.heartbeats import Heartbeats
from gastown.agents.launch.broker_access import TownUpstreams
from gastown.agents.launch.desired import ContainerDefaults
from gastown.agents.launch.environment import ChildDefaults
from gastown.agents.launch.repositories import git_of
from gastown.agents.merge_journal import MergeJournal
from gastown.agents.merges import Merges
from gastown.agents.retention.disk import DiskUse
from gastown.agents.retention.records import KeptRecords
from gastown.agents.retention.sweep import KeepLimits, Retention
from gastown.agents.roster import Roster, open_roster
from gastown.agents.services import AgentServices, Deadlines
from gastown.agents.session.event_log import EventLog
from gastown.boot.hydrate import Hydration
from gastown.boot.report import BootReport
from gastown.broker.listener import Broker, open_broker, upstream_client
from gastown.broker.upstreams import Upstreams
from gastown.concurrency.gate import HydrationGate
from gastown.concurrency.shutdown import Shutdown
from gastown.concurrency.slots import PrioritySlots
from gastown.concurrency.supervise import Supervisor, open_supervisor
from gastown.contract.secret import Secret
from gastown.contract.tools import plugin_file
from gastown.contract.town import TownConfig
from gastown.contract.worker import ToolsMissing
from gastown.control.auth.policy import access_policy
from gastown.control.context import Town
from gastown.control.server import listening_host
from gastown.git.access import HelperAccess
from gastown.git.command import GitRunner, run_git
from gastown.git.credentials import GitCredentials
from gastown.git.helper_service import open_helper_service
from gastown.git.repos import open_repositories
from gastown.git.rig import GitLimits, Tools
from gastown.git.salvage.salvage import Salvager, salvage
from gastown.git.workspace import WorkspacePaths
from gastown.isolation.agent_users import AgentUsers, make_dashboard
from gastown.kilo.client import KiloClient
from gastown.kilo.pool import Refused, ServerPool, open_pool
from gastown.kilo.server import Launcher
from gastown.logs import LiveRedactor, SecretBook
from gastown.settings import Settings
from gastown.worker.client import WorkerClient
from gastown.worker.git_tokens import GitTokens
from gastown.worker.heartbeat import open_heartbeats
from gastown.worker.no_worker import NoWorker
from gastown.worker.nudges import NudgeDesk
from gastown.worker.outbox.pump import open_outbox
from gastown.worker.registry import RegistryWriter, open_registry_writer
from gastown.worker.reports import open_reports
from gastown.worker.snapshots.database_work import DatabaseWork
from gastown.worker.snapshots.store import Snapshots
from gastown.worker.telemetry import Telemetry, open_telemetry
from gastown.worker.tokens import Credentials, LiveCredentials

__all__ = ["Open", "Parts", "drain_parts", "few_secrets", "live_secrets", "open_town", "secret_books"]

log = structlog.get_logger()

START_MARGIN_SECONDS = 2.0
"""A start answers this long before its caller gives up, so that the caller hears why."""
_MIB = 1024 * 1024
DEFAULT_GATEWAY = "https://api.kilo.ai"
"""The gateway of kilo where no setting names another one."""


@asynccontextmanager
async def listening_broker(upstreams: Upstreams) -> AsyncIterator[Broker]:
    """A broker on a loopback port, with a client of its own."""
    async with upstream_client() as client, open_broker(client, upstreams) as broker:
        yield broker


@dataclass(frozen=True)
class Parts:
    """The parts of a town that a test may replace."""

    settings: Settings
    kilo_bin: str
    launch: Launcher
    kilo_client: httpx2.AsyncClient
    worker_client: httpx2.AsyncClient
    now: Callable[[], datetime]
    process_start: float
    """When the process started, on Trio's clock."""
    git: GitRunner = run_git
    salvage: Salvager = salvage
    users: AgentUsers = field(default_factory=AgentUsers)
    python: str = sys.executable
    """A Python that every agent may run."""
    open_broker: Callable[[Upstreams], AbstractAsyncContextManager[Broker]] = listening_broker


@dataclass(frozen=True)
class Open:
    """An open town. `hydration` and `registry` are None where the container has no worker."""

    town: Town
    hydration: Hydration | None
    registry: RegistryWriter | None
    worker: WorkerClient


@asynccontextmanager
async def open_town(parts: Parts) -> AsyncIterator[Open]:
    """All services of a container for the length of the block; nothing listens, and nothing is hydrated yet."""
    settings = parts.settings
    credentials = LiveCredentials(initial_credentials(settings))
    worker = open_worker(settings, parts.worker_client, credentials)
    async with AsyncExitStack() as stack:
        services = await open_services(stack, parts, worker, credentials)
        writers: list[RegistryWriter] = []

        def changed() -> None:
            for writer in writers:
                writer.changed()

        roster = await stack.enter_async_context(open_roster(services, changed))
        if worker.is_configured:
            writers.append(await stack.enter_async_context(open_registry_writer(worker, roster.registry)))
        heartbeats = Heartbeats(roster, secrets.token_hex(8))
        await stack.enter_async_context(
            open_heartbeats(worker, heartbeats.beats, services.reports.container_ready)
        )
        background = await stack.enter_async_context(open_supervisor())
        town = await make_town(parts, worker, roster, heartbeats, background)
        registry = writers[0] if writers else None
        if await town.merges.load() and worker.is_configured:
            resume = partial(town.merges.resume, services, town.gate.wait, background.start)
            background.start("merges of the last container", resume)
        await services.kept.load()
        if services.kept.final:
            background.start("retention", town.retention.run)
        hydration = None
        if registry is not None:
            seconds = settings.gastown_gate_seconds
            hydration = Hydration(town.gate, worker, roster, registry, town.report, seconds)
        yield Open(town, hydration, registry, worker)


async def make_town(
    parts: Parts, worker: WorkerClient, roster: Roster, heartbeats: Heartbeats, background: Supervisor
) -> Town:
    """What the HTTP routes work with. Makes the mayor's dashboard file."""
    settings, services = parts.settings, roster.services
    return Town(
        roster=roster,
        heartbeats=heartbeats,
        services=services,
        gate=HydrationGate(),
        report=BootReport(parts.process_start),
        drain=Drain(Shutdown(settings.gastown_drain_seconds)),
        background=background,
        merges=Merges(MergeJournal(services.paths.root / ".merges", parts.now), parts.now),
        retention=Retention(roster, keep_limits(settings)),
        disk=DiskUse(services.paths.root),
        dashboard_file=await make_dashboard(settings.gastown_agent_home_root, parts.users.mayor),
        started_at=parts.now(),
        process_start=parts.process_start,
        start_seconds=settings.gastown_start_seconds,
        start_margin=min(START_MARGIN_SECONDS, settings.gastown_start_seconds / 10),
        now=parts.now,
        redactor=LiveRedactor(partial(few_secrets, settings, services), secret_books(roster, services)),
        town_id=settings.gastown_town_id,
        policy=access_policy(settings, listening_host(settings)),
        worker_calls=worker.calls,
    )


async def open_services(
    stack: AsyncExitStack, parts: Parts, worker: WorkerClient, credentials: LiveCredentials
) -> AgentServices:
    """What every agent's life needs, for as long as `stack` is open."""
    settings = parts.settings
    slots = PrioritySlots(settings.gastown_spawn_slots)
    telemetry = await stack.enter_async_context(open_telemetry(worker))
    reports = await stack.enter_async_context(open_reports(worker))
    outbox = await stack.enter_async_context(
        open_outbox(worker, most=settings.gastown_outbox_events, most_bytes=settings.gastown_outbox_mb * _MIB)
    )
    # Before the first spawn, and until the last server is gone.
    broker = await open_agents_broker(stack, parts, worker, credentials)
    pool = await open_servers(stack, parts, slots, telemetry)
    git_tools = await open_git(stack, parts, worker, credentials)
    return AgentServices(
        pool=pool,
        snapshots=Snapshots(worker, settings.gastown_snapshot_mb * _MIB, DatabaseWork(parts.python)),
        telemetry=telemetry,
        credentials=credentials,
        defaults=child_defaults(settings, parts.kilo_bin, git_tools.access),
        paths=git_tools.paths,
        repositories=await stack.enter_async_context(open_repositories(git_tools)),
        events=EventLog(parts.now),
        deadlines=deadlines(settings),
        restarts=trio.CapacityLimiter(max(1, slots.capacity // 2)),
        now=parts.now,
        outbox=outbox,
        reports=reports,
        nudges=NudgeDesk(worker, reports),
        users=parts.users,
        broker=broker,
        kept=KeptRecords(git_tools.paths.root / ".agents", parts.now),
        salvage=parts.salvage,
        server_rss_mb=settings.gastown_server_rss_mb,
    )


async def open_servers(
    stack: AsyncExitStack, parts: Parts, slots: PrioritySlots, telemetry: Telemetry
) -> ServerPool:
    """The pool of kilo servers for as long as `stack` is open."""
    return await stack.enter_async_context(
        open_pool(
            parts.launch,
            partial(KiloClient, parts.kilo_client),
            slots,
            spawn_seconds=parts.settings.gastown_spawn_seconds,
            on_refused=lambda refused: telemetry.send(tools_missing(refused)),
        )
    )


def deadlines(settings: Settings) -> Deadlines:
    return Deadlines(
        start=settings.gastown_start_seconds,
        refresh=settings.gastown_refresh_seconds,
        first_word=settings.gastown_first_word_seconds,
        stalled=settings.gastown_stalled_seconds,
        idle=settings.agent_idle_timeout_ms / 1000,
        refinery_idle=settings.refinery_idle_timeout_ms / 1000,
    )


def keep_limits(settings: Settings) -> KeepLimits:
    return KeepLimits(
        age=timedelta(hours=settings.gastown_keep_ended_hours),
        agents=settings.gastown_keep_ended_agents,
        size=settings.gastown_keep_ended_mb * _MIB,
    )


def tools_missing(refused: Refused) -> ToolsMissing:
    env = refused.spec.env
    return ToolsMissing(
        town_id=env["GASTOWN_TOWN_ID"],
        agent_id=env["GASTOWN_AGENT_ID"],
        missing=tuple(refused.reason.missing),
    )


def initial_credentials(settings: Settings) -> Credentials:
    return Credentials(
        container_token=settings.gastown_container_token,
        session_token=settings.gastown_session_token,
        town=TownConfig(),
    )


def open_worker(settings: Settings, client: httpx2.AsyncClient, credentials: LiveCredentials) -> WorkerClient:
    """The worker's client, or its stand-in where the container was given no worker."""
    if settings.gastown_api_url is None or settings.gastown_town_id is None:
        return NoWorker()
    return WorkerClient(client, settings.gastown_api_url, settings.gastown_town_id, credentials)


async def open_agents_broker(
    stack: AsyncExitStack, parts: Parts, worker: WorkerClient, credentials: LiveCredentials
) -> Broker:
    """The broker for as long as `stack` is open."""
    settings = parts.settings
    gateway_url = (settings.kilo_api_url or DEFAULT_GATEWAY).rstrip("/")
    own_url = settings.gastown_gateway_url.rstrip("/") if settings.gastown_gateway_url else None
    upstreams = TownUpstreams(worker, credentials, settings.gastown_api_url, gateway_url, own_url)
    return await stack.enter_async_context(parts.open_broker(upstreams))


async def open_git(stack: AsyncExitStack, parts: Parts, worker: WorkerClient, live: LiveCredentials) -> Tools:
    """git's credentials and the service that gives them out, for as long as `stack` is open."""
    settings = parts.settings
    source = GitTokens(
        worker,
        parts.worker_client,
        live,
        cloud_url=settings.kilo_cloud_url,
        kilocode_token=settings.kilocode_token,
    )

    def since(name: str) -> int:
        return live.current.generation_of(name)

    credentials = GitCredentials(
        lambda: live.current.town.git_auth,
        source,
        town_since=since,
        generation=live.next_generation,
    )
    users = parts.users
    helper = open_helper_service(credentials, for_all=users.main is not None, python=parts.python)
    return Tools(
        run=parts.git,
        env=settings.base_env,
        paths=WorkspacePaths(settings.gastown_workspace_root),
        credentials=credentials,
        access=await stack.enter_async_context(helper),
        limits=GitLimits(clone=settings.gastown_clone_seconds, operation=settings.gastown_git_seconds),
        repo_owner=users.repo_owner,
        browse_user=users.mayor,
        checks_user=users.of_checks,
    )


def child_defaults(settings: Settings, kilo_bin: str, git: HelperAccess | None = None) -> ChildDefaults:
    return ChildDefaults(
        kilo_bin=kilo_bin,
        home_root=settings.gastown_agent_home_root,
        base_env=settings.base_env,
        parent_pid=os.getpid(),
        counts=ContainerDefaults(settings.kilocode_token, settings.gastown_organization_id),
        mayor_tools=frozenset(settings.gastown_mayor_tools),
        plugin=plugin_file().as_uri(),
        git=git,
    )


def live_secrets(settings: Settings, roster: Roster, services: AgentServices) -> list[Secret]:
    """Every value that must not be seen in the log, at this moment."""
    return [
        *few_secrets(settings, services),
        *(one for book in secret_books(roster, services) for one in book.secrets()),
    ]


def few_secrets(settings: Settings, services: AgentServices) -> list[Secret]:
    """Those of `live_secrets` whose number does not grow with that of the agents that wait."""
    return [
        *settings.secrets(),
        *services.credentials.current.secrets(),
        *services.repositories.tools.credentials.secrets(),
        *services.pool.secrets(),
    ]


def secret_books(roster: Roster, services: AgentServices) -> tuple[SecretBook, ...]:
    """Those of `live_secrets` that come with each agent."""
    return (roster.known_secrets, services.broker.grants.known_secrets)


def drain_parts(opened: Open) -> DrainParts:
    """What the drain of this town works with."""
    town, flushes = opened.town, {}
    if opened.registry is not None:
        services = town.services

        async def reports() -> None:
            town.merges.cut_checks()
            await town.merges.finished()  # the end of one is a report
            await services.reports.flushed()

        flushes = {
            "registry": opened.registry.flushed,
            "reports": reports,
            "events": services.outbox.flushed,
        }
    agent_drain = AgentDrainParts(
        town.roster, town.services, opened.worker, lambda agent: git_of(agent, town.services)
    )
    return DrainParts(agent_drain, flushes)
