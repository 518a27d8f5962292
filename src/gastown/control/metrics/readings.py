"""The current values of the metrics in the table, read from the town's objects."""

from __future__ import annotations

import json
from collections import Counter as Multiset
from collections.abc import Iterable, Mapping
from pathlib import Path

import structlog

from gastown import __version__
from gastown.agents.agent import Agent
from gastown.concurrency.slots import Priority
from gastown.contract.drain import DrainPhase
from gastown.control.context import Town
from gastown.isolation.proc import resident_bytes
from gastown.kilo.pool import Server
from gastown.logs import dropped_lines
from gastown.metrics.counters import Counter, Histogram, Labels
from gastown.metrics.table import OTHER

__all__ = ["Reading", "readings"]

Reading = Counter | Histogram | Mapping[Labels, float]
"""Of a gauge, or of a counter that a service keeps as a number: what is not there is 0."""

log = structlog.get_logger()

_ROLE = "GASTOWN_AGENT_ROLE"


def readings(town: Town) -> dict[str, Reading]:
    """Readings by metric name, of every metric in the table but those of the process."""
    return {
        "gastown_build_info": {(__version__, kilo_version(town.services.defaults.kilo_bin)): 1},
        **_starts(town),
        **_servers(town),
        **_agents(town),
        **_events(town),
        **_worker(town),
        **_broker(town),
        **_connections(town),
        "gastown_event_loop_lag_seconds": town.lag.lags,
        "gastown_tasks_failed_total": {(): town.background.failures + town.services.repositories.tasks.failures},
        **_drain(town),
        "gastown_rig_disk_bytes": {(rig,): size for rig, size in town.disk.figures(town.background.start).items()},
    }


def _starts(town: Town) -> dict[str, Reading]:
    starts, gate = town.roster.starts, town.gate
    return {
        "gastown_agent_starts_total": starts.over,
        "gastown_agent_start_failures_total": starts.failures,
        "gastown_agent_start_duration_seconds": starts.seconds,
        "gastown_agent_start_phase_duration_seconds": starts.phase_seconds,
        "gastown_gate_open": {(): gate.is_open},
        "gastown_gate_waiting_requests": {(): gate.waiting},
        "gastown_gate_wait_seconds": gate.waits,
        "gastown_hydration_state": {(town.report.state,): 1},
    }


def _servers(town: Town) -> dict[str, Reading]:
    pool = town.services.pool
    slots, servers = pool.slots, pool.servers
    sizes = [(_role_of(server), resident_bytes(server.running.pid)) for server in servers]
    memory: Multiset[Labels] = Multiset()
    for role, size in sizes:
        memory[role,] += size
    return {
        "gastown_spawn_slots": {(): slots.capacity},
        "gastown_spawn_slots_in_use": {(): slots.in_use},
        "gastown_spawn_slots_waiting": {(u.name.lower(),): slots.waiting_at(u) for u in Priority},
        "gastown_server_spawns_total": pool.spawns,
        "gastown_server_deaths_total": pool.deaths,
        "gastown_server_frames_dropped_total": pool.dropped,
        "gastown_server_asks_total": pool.asks,
        "gastown_servers": Multiset((role,) for role, _ in sizes),
        "gastown_server_resident_memory_bytes": memory,
        "gastown_server_resident_memory_max_bytes": {(): max((size for _, size in sizes), default=0)},
    }


def _agents(town: Town) -> dict[str, Reading]:
    stalled, known = town.services.deadlines.stalled, town.roster.known()
    return {
        "gastown_agents": Multiset((agent.request.role, str(agent.state)) for agent in known),
        "gastown_agents_usage_differs": {(): sum(agent.activity.usage.differs for agent in known)},
        "gastown_agent_conditions": Multiset((kind,) for kind in _conditions(known, stalled)),
    }


def _conditions(agents: Iterable[Agent], stalled: float) -> Iterable[str]:
    """One that cannot be told is `other`: what is odd in one agent keeps no reading of the others back."""
    for agent in agents:
        try:
            condition = agent.condition(stalled)
        except Exception:  # a boundary
            log.exception("metrics.agent_unreadable", agent_id=agent.id)
            yield OTHER
            continue
        if condition is not None:
            yield condition.type


def _events(town: Town) -> dict[str, Reading]:
    services, hub = town.services, town.services.events.hub
    outbox = services.outbox.figures()
    left = {"sent": outbox.sent, "merged": outbox.merged, "dropped": outbox.dropped, "refused": outbox.refused}
    return {
        "gastown_events_recorded_total": {(): hub.newest},  # ids are given out one after the other
        "gastown_outbox_events_total": {(outcome,): number for outcome, number in left.items()},
        "gastown_outbox_retries_total": {(): outbox.retried},
        "gastown_outbox_waiting_events": {(): outbox.depth},
        "gastown_outbox_waiting_bytes": {(): outbox.bytes},
        "gastown_outbox_oldest_age_seconds": {(): outbox.age_seconds},
        "gastown_stream_subscribers": {(): hub.subscribers},
        "gastown_stream_gaps_total": {(): hub.gaps},
        "gastown_reports_waiting": {(): services.reports.pending},
        "gastown_reports_lost_total": {(): services.reports.lost},
        "gastown_telemetry_lost_total": {(): services.telemetry.lost},
        "gastown_log_lines_dropped_total": {(): dropped_lines()},
        "gastown_heartbeats_not_built_total": town.heartbeats.not_built,
    }


def _worker(town: Town) -> dict[str, Reading]:
    snapshots = town.services.snapshots
    return {
        "gastown_worker_calls_total": town.worker_calls.over,
        "gastown_worker_call_duration_seconds": town.worker_calls.seconds,
        "gastown_snapshot_operations_total": snapshots.operations.over,
        "gastown_snapshot_duration_seconds": snapshots.operations.seconds,
        "gastown_snapshot_size_bytes": snapshots.sizes,
    }


def _broker(town: Town) -> dict[str, Reading]:
    figures = town.services.broker.figures
    return {
        "gastown_broker_requests_total": figures.over,
        "gastown_broker_requests_in_progress": {(to,): n for to, n in figures.in_progress.items()},
        "gastown_broker_first_byte_seconds": figures.first_bytes,
        "gastown_model_calls_total": figures.models.calls,
        "gastown_model_tokens_total": figures.models.tokens,
        "gastown_model_cost_usd_total": figures.models.cost,
        "gastown_model_calls_unpriced_total": figures.models.unpriced,
    }


def _connections(town: Town) -> dict[str, Reading]:
    crowds = (town.crowd, town.services.broker.crowd)
    return {
        "gastown_connections": {(crowd.server,): crowd.size for crowd in crowds},
        "gastown_connections_limit": {(crowd.server,): crowd.most for crowd in crowds},
        "gastown_connections_cut_total": {
            (crowd.server, reason): number for crowd in crowds for reason, number in crowd.cut.items()
        },
    }


def _drain(town: Town) -> dict[str, Reading]:
    drain = town.drain
    left = drain.shutdown.seconds_left
    lasting = (DrainPhase.WORKING, DrainPhase.SAVING, DrainPhase.FLUSHING)
    return {
        "gastown_drain_phase": {(drain.phase,): 1},
        "gastown_drain_phase_duration_seconds": {(phase,): drain.phases.seconds(phase) for phase in lasting},
        "gastown_drain_budget_remaining_seconds": {(): drain.shutdown.seconds if left is None else left},
    }


def _role_of(server: Server) -> str:
    return server.spec.env.get(_ROLE, "")


def kilo_version(kilo_bin: str) -> str:
    """What the package says in which the binary lies; to ask the binary itself costs a second of CPU."""
    try:
        package = json.loads((Path(kilo_bin).resolve().parents[1] / "package.json").read_text("utf-8"))
        return str(package["version"])
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return "unknown"
