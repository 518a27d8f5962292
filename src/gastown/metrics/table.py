"""Every metric of `/metrics`, as data: the collector, the reference in docs and the checks of deploy/ read it.

Labels have a fixed list of values, so the number of series is known beforehand and does not grow with the agents.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from math import prod
from types import MappingProxyType

from gastown.contract.agents import AgentState, Role
from gastown.contract.drain import DrainPhase

__all__ = ["METRICS", "OTHER", "Metric", "MetricType"]

OTHER = "other"
"""The value of a label for whatever its list does not name."""


class MetricType(StrEnum):
    """The types of the Prometheus exposition format that are used here."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True)
class Metric:
    """One metric. `labels` are the allowed values per label; an empty list is one value, fixed for the process;
    of `rig_id` it is an id, of at most 100 rigs.

    `unit` is the base unit in the name, empty for a plain number. `buckets` are a histogram's upper bounds.
    """

    name: str
    type: MetricType
    help: str
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    unit: str = ""
    buckets: tuple[float, ...] = ()

    def key(self, labels: tuple[str, ...]) -> tuple[str, ...]:
        """`labels`, with `other` for a value that is not listed; raises `ValueError` where there is no `other`."""
        found: list[str] = []
        for value, allowed in zip(labels, self.labels.values(), strict=True):
            if value in allowed or not allowed:
                found.append(value)
            elif OTHER in allowed:
                found.append(OTHER)
            else:
                raise ValueError(f"{self.name} has no series for {value!r}")
        return tuple(found)

    @property
    def samples(self) -> tuple[str, ...]:
        """The names that a query may use."""
        if self.type is MetricType.HISTOGRAM:
            return tuple(self.name + suffix for suffix in ("_bucket", "_count", "_sum"))
        return (self.name,)

    @property
    def most_series(self) -> int:
        """The largest number of lines it can have in the exposition."""
        lines = len(self.buckets) + 3 if self.type is MetricType.HISTOGRAM else 1
        return lines * prod(len(values) or 1 for values in self.labels.values())


# Every deadline of the program is a bound: the first word (1 s), a refresh (6), a read from the worker (10), the
# gate (20), a spawn (30), a start (60). So the share that kept its deadline is exact, and not interpolated.
_DEADLINES = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 6.0, 10.0, 20.0, 30.0, 60.0)
# An answer of a model: some milliseconds are the broker's own share, minutes a model that thinks before it speaks;
# kilo itself gives up after 300 s.
_FIRST_BYTE = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 6.0, 20.0, 60.0, 300.0)
# A wake-up of a quiet loop is late by less than a millisecond; from 1 s on `loop.stood_still` is logged.
_LAG = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 6.0, 20.0, 60.0)
_KIB, _MIB = 1024.0, 1024.0 * 1024.0
# A new conversation has some 100 KiB; 64 MiB is the usual limit of what is saved.
_SIZES = (64 * _KIB, 256 * _KIB, _MIB, 4 * _MIB, 16 * _MIB, 64 * _MIB, 256 * _MIB)

_ROLES = (*(str(role) for role in Role), OTHER)
_STATES = tuple(str(state) for state in AgentState)
_CONDITIONS = ("starting", "idle", "busy", "retrying", "offline", "waiting", "stalled", "wedged")
_ORIGINS = ("request", "registry", "comeback")
_PHASES = (
    "created",
    "gate",
    "replace",
    "claimed",
    "workspace",
    "snapshot",
    "queue",
    "spawn",
    "instance",
    "session",
    "events",
    "initial_prompt",
    "pause",
    OTHER,
)
_WORKER_ROUTES = (
    "container-registry",
    "mayor-id",
    "db-snapshot",
    "agent-events",
    "pending-nudges",
    "nudge-delivered",
    "heartbeat",
    "container-ready",
    "completed",
    "waiting",
    "eviction-context",
    "container-eviction",
    "container-events",
    "refresh-container-token",
    "refresh-git-token",
    "review-queue",
    "callback",
    OTHER,
)
_SERVERS = ("control", "broker")
_DESTINATIONS = ("worker", "gateway", "broker")


def _counter(name: str, text: str, **labels: Iterable[str]) -> Metric:
    return Metric(f"{name}_total", MetricType.COUNTER, text, _listed(labels))


def _gauge(name: str, text: str, *, unit: str = "", **labels: Iterable[str]) -> Metric:
    return Metric(f"{name}_{unit}" if unit else name, MetricType.GAUGE, text, _listed(labels), unit)


def _histogram(
    name: str, text: str, buckets: tuple[float, ...], *, unit: str = "seconds", **labels: Iterable[str]
) -> Metric:
    return Metric(f"{name}_{unit}", MetricType.HISTOGRAM, text, _listed(labels), unit, buckets)


def _listed(labels: Mapping[str, Iterable[str]]) -> Mapping[str, tuple[str, ...]]:
    return MappingProxyType({name: tuple(values) for name, values in labels.items()})


_ALL = (
    _gauge(
        "gastown_build_info",
        "Always 1; the labels name the running version of gastown and that of its kilo.",
        version=(),
        kilo_version=(),
    ),
    # Starts
    _counter(
        "gastown_agent_starts",
        "Starts that are over. origin: a request, the registry of the last container, or the comeback of an agent "
        "whose server died. outcome: running; failed; deadline, its time was up; ended, it was stopped, replaced "
        "or evicted while it started, or its client left at the gate; refused, the container drains.",
        role=_ROLES,
        origin=_ORIGINS,
        outcome=("running", "failed", "deadline", "ended", "refused"),
    ),
    _counter(
        "gastown_agent_start_failures",
        "Starts that are over and did not get to running, by the phase in which they were. outcome as in "
        "gastown_agent_starts_total.",
        phase=_PHASES,
        outcome=("failed", "deadline", "ended", "refused"),
    ),
    _histogram(
        "gastown_agent_start_duration",
        "Seconds of a whole start that got to running: from the request's arrival, from the release of an agent "
        "of the registry, or from the death of the server of an agent that comes back.",
        _DEADLINES,
        origin=_ORIGINS,
    ),
    _histogram(
        "gastown_agent_start_phase_duration",
        "Seconds that a start spent in a phase, also one that failed; queue is the wait for a spawn slot, spawn "
        "ends when the server listens, instance when its tools are there, session when the agent's session is.",
        _DEADLINES,
        phase=_PHASES,
    ),
    # The gate and boot hydration
    _gauge("gastown_gate_open", "1 while requests pass the hydration gate, 0 while they wait for it."),
    _gauge("gastown_gate_waiting_requests", "Requests that wait for the hydration gate now."),
    _histogram("gastown_gate_wait", "Seconds that a request waited for the hydration gate.", _DEADLINES),
    _gauge(
        "gastown_hydration_state",
        "1 for the state of boot hydration, 0 for the others.",
        state=("idle", "running", "complete", "failed"),
    ),
    # Spawn slots and servers
    _gauge("gastown_spawn_slots", "Servers that may start at a time."),
    _gauge("gastown_spawn_slots_in_use", "Spawn slots that are taken now."),
    _gauge(
        "gastown_spawn_slots_waiting",
        "Spawns that wait for a slot now, by how urgent they are.",
        urgency=("interactive", "prewarm", "refresh", "resume"),
    ),
    _counter(
        "gastown_server_spawns",
        "Spawns of kilo servers that are over. outcome: ready; died; timed_out; refused, it came up without the "
        "tools that it must have; failed, it did not take a request; cancelled.",
        outcome=("ready", "died", "timed_out", "refused", "failed", "cancelled"),
    ),
    _counter("gastown_server_deaths", "Kilo servers whose process ended without being told to."),
    _counter(
        "gastown_server_frames_dropped",
        "Frames of kilo servers' event streams that were dropped: not JSON, or not of the shape that kilo sends.",
    ),
    _counter(
        "gastown_server_asks",
        "What kilo servers asked a person for and were answered by rule. kind: permission, question, suggestion; "
        "reply: allowed, refused.",
        kind=("permission", "question", "suggestion"),
        reply=("allowed", "refused"),
    ),
    _gauge("gastown_servers", "Kilo servers whose process lives, by the role of their agent.", role=_ROLES),
    _gauge(
        "gastown_server_resident_memory",
        "Resident memory of the kilo servers' processes in bytes, summed by the role of their agent; what they "
        "share is counted for each, what their tools start is not counted.",
        unit="bytes",
        role=_ROLES,
    ),
    _gauge(
        "gastown_server_resident_memory_max",
        "Resident memory of the biggest kilo server in bytes; 0 when there is none.",
        unit="bytes",
    ),
    # Agents
    _gauge(
        "gastown_agents",
        "Agents by role and state; one that has ended is counted until it is forgotten (200 are kept).",
        role=_ROLES,
        state=_STATES,
    ),
    _gauge(
        "gastown_agent_conditions",
        "Starting and running agents by how they get on (GET /agents/:id/status says more of each).",
        condition=(*_CONDITIONS, OTHER),
    ),
    # Events
    _counter("gastown_events_recorded", "Events of agents that were recorded: kilo's and our own."),
    _counter(
        "gastown_outbox_events",
        "Events that have left the outbox for the worker. outcome: sent; merged, contained in one that is sent "
        "later; dropped, the outbox was full; refused, the worker does not take it.",
        outcome=("sent", "merged", "dropped", "refused"),
    ),
    _counter("gastown_outbox_retries", "Calls of the outbox that failed and are made again."),
    _gauge("gastown_outbox_waiting_events", "Events that wait for the worker now."),
    _gauge("gastown_outbox_waiting", "Memory of the events that wait for the worker, in bytes.", unit="bytes"),
    _gauge(
        "gastown_outbox_oldest_age",
        "Seconds for which the oldest event has waited for the worker; 0 when none waits.",
        unit="seconds",
    ),
    _gauge("gastown_stream_subscribers", "Websockets that follow events now."),
    _counter(
        "gastown_stream_gaps",
        "Times that a websocket was told of a loss: its client read too slowly, or asked for what is gone.",
    ),
    _gauge("gastown_reports_waiting", "Reports that the worker has not taken yet."),
    _counter("gastown_reports_lost", "Reports that the worker refused, or that were one too many."),
    _counter("gastown_telemetry_lost", "Telemetry events that were given up."),
    _counter(
        "gastown_log_lines_dropped",
        "Lines of the control server's log that stderr did not take: it was full, gone, or not read.",
    ),
    # Connections
    _gauge("gastown_connections", "Open connections of a server of this process.", server=_SERVERS),
    _gauge("gastown_connections_limit", "How many connections a server takes at once.", server=_SERVERS),
    _counter(
        "gastown_connections_cut",
        "Connections that the server ended or refused. reason: crowded, there were as many as it takes, so the "
        "one that had waited longest for a request went, or the new one; descriptors, the process had too many "
        "files open; silent, no request came; headers, those of a request were too large; message, a websocket's.",
        server=_SERVERS,
        reason=("crowded", "descriptors", "silent", "headers", "message"),
    ),
    _counter("gastown_heartbeats_not_built", "Heartbeats of an agent that could not be made of its state."),
    # The worker API
    _counter(
        "gastown_worker_calls",
        "Requests to the worker API. outcome: ok; unauthorized (401, 403); not_found (404; of a db-snapshot: "
        "there is none, the agent starts fresh); refused (3xx, any other 4xx); failed (5xx, 408, 429); no_answer, "
        "the connection failed; cut, the caller's deadline or end came first.",
        route=_WORKER_ROUTES,
        outcome=("ok", "unauthorized", "not_found", "refused", "failed", "no_answer", "cut"),
    ),
    _histogram(
        "gastown_worker_call_duration",
        "Seconds of a request to the worker API, whatever became of it.",
        _DEADLINES,
        route=_WORKER_ROUTES,
    ),
    # The broker
    _counter(
        "gastown_broker_requests",
        "Requests of agents to the broker that are over. destination: where it went, broker for what the broker "
        "answers itself. outcome: the class of the upstream's status; denied, the broker did not let it "
        "through; no_answer, the upstream could not be reached or broke off; cut, the agent left or ended.",
        destination=_DESTINATIONS,
        outcome=("1xx", "2xx", "3xx", "4xx", "5xx", "denied", "no_answer", "cut"),
    ),
    _gauge(
        "gastown_broker_requests_in_progress",
        "Requests of agents that the broker serves now.",
        destination=_DESTINATIONS,
    ),
    _histogram(
        "gastown_broker_first_byte",
        "Seconds from an agent's request to the first byte of the upstream's body (its headers if it has none).",
        _FIRST_BYTE,
        destination=("worker", "gateway"),
    ),
    _counter(
        "gastown_model_calls",
        "Answers of models that have come through the broker. outcome: counted, the gateway said their usage; "
        "missing, it did not; unreadable, too large or compressed; cut, before their end.",
        outcome=("counted", "missing", "unreadable", "cut"),
    ),
    _counter(
        "gastown_model_tokens",
        "Tokens of those answers. kind: input has the cached ones, output those of the reasoning.",
        kind=("input", "output", "cached", "reasoning"),
    ),
    _counter("gastown_model_cost_usd", "What those answers cost in USD, as far as the gateway said it."),
    _counter("gastown_model_calls_unpriced", "Those answers of which the gateway did not say the cost."),
    _gauge(
        "gastown_agents_usage_differs",
        "Agents whose server counts other tokens than the gateway, see the log event agent.usage_differs.",
    ),
    # Conversations
    _counter(
        "gastown_snapshot_operations",
        "Saves and restores of agents' conversations. Outcomes of a save: saved; nothing, there is none yet; "
        "failed; unsettled, the stored one could not be asked for; apart, another one is stored. Of a restore: "
        "local; restored; fresh; unavailable. Of both: failed; cut, its time was up.",
        operation=("save", "restore"),
        outcome=(
            "saved",
            "nothing",
            "failed",
            "unsettled",
            "apart",
            "local",
            "restored",
            "fresh",
            "unavailable",
            "cut",
        ),
    ),
    _histogram(
        "gastown_snapshot_duration",
        "Seconds of a save or a restore, whatever became of it.",
        _DEADLINES,
        operation=("save", "restore"),
    ),
    _histogram(
        "gastown_snapshot_size",
        "Bytes of a conversation that was saved at the worker or restored from it.",
        _SIZES,
        unit="bytes",
        operation=("save", "restore"),
    ),
    # The event loop
    _histogram(
        "gastown_event_loop_lag",
        "Seconds by which a task woke up late, asked twice a second: how long everything else had to wait.",
        _LAG,
    ),
    _counter("gastown_tasks_failed", "Tasks in the background that ended with an exception, which the log has."),
    # The drain
    _gauge(
        "gastown_drain_phase",
        "1 for the phase of the drain, 0 for the others; none as long as there is no drain.",
        phase=(str(phase) for phase in DrainPhase),
    ),
    _gauge(
        "gastown_drain_phase_duration",
        "Seconds that the drain has spent in a phase so far.",
        unit="seconds",
        phase=("working", "saving", "flushing"),
    ),
    _gauge(
        "gastown_drain_budget_remaining",
        "Seconds that are left of the drain's budget; all of it as long as there is no drain.",
        unit="seconds",
    ),
    _gauge(
        "gastown_rig_disk",
        "Bytes that a rig takes on the disk, clone, worktrees and all, counted every ten minutes; the largest "
        "100 rigs by their ids, the rest as `other`.",
        unit="bytes",
        rig_id=(),
    ),
    # The control server's own process, under the names that every Prometheus client gives it
    Metric(
        "process_cpu_seconds_total",
        MetricType.COUNTER,
        "Seconds of CPU time that the control server has used, user and system.",
        unit="seconds",
    ),
    Metric(
        "process_resident_memory_bytes",
        MetricType.GAUGE,
        "Resident memory of the control server in bytes.",
        unit="bytes",
    ),
    Metric(
        "process_virtual_memory_bytes",
        MetricType.GAUGE,
        "Virtual memory of the control server in bytes.",
        unit="bytes",
    ),
    Metric(
        "process_start_time_seconds",
        MetricType.GAUGE,
        "When the control server started, in seconds since 1970.",
        unit="seconds",
    ),
    Metric("process_open_fds", MetricType.GAUGE, "File descriptors that the control server has open."),
    Metric("process_max_fds", MetricType.GAUGE, "File descriptors that the control server may have open."),
)

METRICS: Mapping[str, Metric] = MappingProxyType({metric.name: metric for metric in _ALL})
"""By name, in the order in which `/metrics` and the reference show them."""
