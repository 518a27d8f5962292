"""The board of a town as a table of panels; writes town.json beside it, which Grafana imports.

python deploy/grafana/board.py            writes it
python deploy/grafana/board.py --check    says whether it is what the table makes
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

BOARD = Path(__file__).with_name("town.json")
WIDTH, HEIGHT = 24, 7
TOWN = 'town=~"$town"'


class Panel(NamedTuple):
    """A panel: what it asks, with the legend of each, and in which unit. `kind` is Grafana's word."""

    title: str
    queries: dict[str, str]
    """PromQL by legend; `TOWN` stands for the chosen towns."""
    unit: str = "short"
    kind: str = "timeseries"
    stacked: bool = False


def quantile(q: float, metric: str, by: str = "", matching: str = "") -> str:
    """The `q` quantile of a histogram over the interval, per town and `by`."""
    series = f"rate({metric}_bucket{{{', '.join(filter(None, ['TOWN', matching]))}}}[$__rate_interval])"
    return f"histogram_quantile({q}, sum by ({', '.join(filter(None, ['town', by, 'le']))}) ({series}))"


def rate(metric: str, by: str = "", matching: str = "") -> str:
    series = f"rate({metric}{{{', '.join(filter(None, ['TOWN', matching]))}}}[$__rate_interval])"
    return f"sum by ({', '.join(filter(None, ['town', by]))}) ({series})"


def total(metric: str, by: str = "", matching: str = "") -> str:
    series = f"{metric}{{{', '.join(filter(None, ['TOWN', matching]))}}}"
    return f"sum by ({', '.join(filter(None, ['town', by]))}) ({series})"


ROWS: dict[str, list[Panel]] = {
    "Now": [
        Panel("Gate", {"{{town}}": total("gastown_gate_open")}, kind="stat"),
        Panel("Agents that work", {"{{town}}": total("gastown_agents", matching='state="running"')}, kind="stat"),
        Panel("Kilo servers", {"{{town}}": total("gastown_servers")}, kind="stat"),
        Panel("Oldest event not sent", {"{{town}}": total("gastown_outbox_oldest_age_seconds")}, "s", "stat"),
    ],
    "Starting": [
        Panel("Starts by outcome", {"{{town}} {{outcome}}": rate("gastown_agent_starts_total", "outcome")}, "cps"),
        Panel(
            "A requested start",
            {
                "{{town}} half": quantile(
                    0.5, "gastown_agent_start_duration_seconds", matching='origin="request"'
                ),
                "{{town}} nine in ten": quantile(
                    0.9, "gastown_agent_start_duration_seconds", matching='origin="request"'
                ),
            },
            "s",
        ),
        Panel(
            "Phases, nine in ten",
            {"{{town}} {{phase}}": quantile(0.9, "gastown_agent_start_phase_duration_seconds", "phase")},
            "s",
        ),
        Panel(
            "Starts that failed, by phase",
            {"{{town}} {{phase}} {{outcome}}": rate("gastown_agent_start_failures_total", "phase, outcome")},
            "cps",
        ),
        Panel(
            "Waiting",
            {
                "{{town}} at the gate": total("gastown_gate_waiting_requests"),
                "{{town}} for a slot, {{urgency}}": total("gastown_spawn_slots_waiting", "urgency"),
                "{{town}} slots in use": total("gastown_spawn_slots_in_use"),
                "{{town}} slots": total("gastown_spawn_slots"),
            },
        ),
        Panel(
            "Spawns by outcome", {"{{town}} {{outcome}}": rate("gastown_server_spawns_total", "outcome")}, "cps"
        ),
        Panel("Wait at the gate, nine in ten", {"{{town}}": quantile(0.9, "gastown_gate_wait_seconds")}, "s"),
    ],
    "Agents": [
        Panel("Agents by state", {"{{town}} {{state}}": total("gastown_agents", "state")}, stacked=True),
        Panel(
            "Agents by role",
            {"{{town}} {{role}}": total("gastown_agents", "role", 'state="running"')},
            stacked=True,
        ),
        Panel(
            "How they get on",
            {"{{town}} {{condition}}": total("gastown_agent_conditions", "condition")},
            stacked=True,
        ),
        Panel("Servers that died", {"{{town}}": rate("gastown_server_deaths_total")}, "cps"),
        Panel(
            "Memory",
            {
                "{{town}} {{role}} servers": total("gastown_server_resident_memory_bytes", "role"),
                "{{town}} the biggest": total("gastown_server_resident_memory_max_bytes"),
                "{{town}} control server": total("process_resident_memory_bytes"),
            },
            "bytes",
        ),
        Panel(
            "Snapshots",
            {
                "{{town}} {{operation}} {{outcome}}": rate(
                    "gastown_snapshot_operations_total", "operation, outcome"
                )
            },
            "cps",
        ),
    ],
    "Events and the orchestrator": [
        Panel(
            "Events",
            {
                "{{town}} recorded": rate("gastown_events_recorded_total"),
                "{{town}} {{outcome}}": rate("gastown_outbox_events_total", "outcome"),
            },
            "cps",
        ),
        Panel("Memory of the outbox", {"{{town}}": total("gastown_outbox_waiting_bytes")}, "bytes"),
        Panel(
            "Calls by outcome", {"{{town}} {{outcome}}": rate("gastown_worker_calls_total", "outcome")}, "reqps"
        ),
        Panel(
            "Calls, nine in ten",
            {"{{town}} {{route}}": quantile(0.9, "gastown_worker_call_duration_seconds", "route")},
            "s",
        ),
        Panel(
            "Readers of events",
            {"{{town}}": total("gastown_stream_subscribers"), "{{town}} gaps": rate("gastown_stream_gaps_total")},
        ),
    ],
    "The gateway, through the broker": [
        Panel(
            "Requests",
            {
                "{{town}} {{destination}} {{outcome}}": rate(
                    "gastown_broker_requests_total", "destination, outcome"
                )
            },
            "reqps",
        ),
        Panel(
            "First byte, nine in ten",
            {"{{town}} {{destination}}": quantile(0.9, "gastown_broker_first_byte_seconds", "destination")},
            "s",
        ),
        Panel(
            "In progress",
            {"{{town}} {{destination}}": total("gastown_broker_requests_in_progress", "destination")},
        ),
    ],
    "The control server": [
        Panel(
            "Event loop, late by",
            {
                "{{town}} half": quantile(0.5, "gastown_event_loop_lag_seconds"),
                "{{town}} one in a hundred": quantile(0.99, "gastown_event_loop_lag_seconds"),
            },
            "s",
        ),
        Panel("CPU", {"{{town}}": rate("process_cpu_seconds_total")}, "percentunit"),
        Panel("File descriptors", {"{{town}}": total("process_open_fds")}),
        Panel(
            "Drain",
            {
                "{{town}} budget left": total("gastown_drain_budget_remaining_seconds"),
                "{{town}} {{phase}}": total("gastown_drain_phase_duration_seconds", "phase"),
            },
            "s",
        ),
    ],
}


def board() -> dict[str, Any]:
    """Grafana's model of the dashboard."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS.items():
        panels.append(
            {"type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": place(0, y, WIDTH, 1)}
        )
        across = 4 if row[0].kind == "stat" else 3
        height = HEIGHT // 2 if row[0].kind == "stat" else HEIGHT
        for number, panel in enumerate(row):
            width = WIDTH // across
            panels.append(
                drawn(panel, place(number % across * width, y + 1 + number // across * height, width, height))
            )
        y += 1 + (len(row) + across - 1) // across * height
    for number, made in enumerate(panels, start=1):
        made["id"] = number
    return {
        "uid": "gastown-town",
        "title": "Gastown: towns",
        "tags": ["gastown"],
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": [data_source(), town_variable()]},
        "annotations": {"list": []},
        "links": [],
        "panels": panels,
    }


def place(x: int, y: int, width: int, height: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": width, "h": height}


def drawn(panel: Panel, where: dict[str, int]) -> dict[str, Any]:
    custom = {
        "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
        "fillOpacity": 10,
        "showPoints": "never",
    }
    return {
        "type": panel.kind,
        "title": panel.title,
        "gridPos": where,
        "datasource": {"type": "prometheus", "uid": "$datasource"},
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "min": 0,
                **({"custom": custom} if panel.kind == "timeseries" else {}),
            },
            "overrides": [],
        },
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}}
        if panel.kind == "timeseries"
        else {},
        "targets": [
            {"refId": chr(ord("A") + number), "expr": query.replace("TOWN", TOWN), "legendFormat": legend}
            for number, (legend, query) in enumerate(panel.queries.items())
        ],
    }


def data_source() -> dict[str, Any]:
    return {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"}


def town_variable() -> dict[str, Any]:
    return {
        "name": "town",
        "type": "query",
        "label": "Town",
        "datasource": {"type": "prometheus", "uid": "$datasource"},
        "query": "label_values(gastown_gate_open, town)",
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
    }


def main() -> int:
    made = json.dumps(board(), indent=1) + "\n"
    if sys.argv[1:] == ["--check"]:
        if BOARD.read_text("utf-8") == made:
            return 0
        sys.stderr.write(f"{BOARD.name} is not what board.py makes: run python deploy/grafana/board.py\n")
        return 1
    BOARD.write_text(made, "utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
