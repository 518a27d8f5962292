"""The metrics of `/metrics`, from the table that the collector itself reads."""

from __future__ import annotations

import re

from gastown.metrics.table import METRICS, Metric
from tools.site.markdown import beneath, code, table

__all__ = ["page"]


def page() -> str:
    """The reference page."""
    groups: dict[str, list[Metric]] = {}
    for metric in METRICS.values():
        noun = re.sub(r"(?<!s)s$", "", metric.name.removeprefix("gastown_").split("_")[0])
        groups.setdefault(noun, []).append(metric)
    tables = (f"## {noun}\n\n{table(('Metric', 'Meaning'), map(_row, group))}" for noun, group in groups.items())
    return "\n".join([_HEAD, *tables])


def _row(metric: Metric) -> tuple[str, str]:
    labels = (f"{code(name)}: {', '.join(values) or 'one value'}" for name, values in metric.labels.items())
    return beneath(code(metric.name), str(metric.type)), beneath(metric.help, "<br>".join(labels))


_HEAD = """\
# Metrics

`GET /metrics` on the control port, in Prometheus' text format. Each label has a fixed list of values, so the
number of series does not grow with the agents.
"""
