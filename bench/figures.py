"""What one run of the benchmarks has found, each figure beside a yardstick of the same run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

__all__ = ["COLLECTED", "Figure"]

STEADY, USUAL, SHAKY = 0.15, 0.30, 0.60
"""By how much a ratio may be worse than the baseline's before it is called worse: memory; most; short waits."""


@dataclass(frozen=True)
class Figure:
    """`yardstick` is what the same machine took for the plainest form of it, in the same minutes and unit.

    `note` is said beside the value.
    """

    group: str
    name: str
    unit: str
    value: float
    against: str
    yardstick: float
    noise: float = USUAL
    more_is_better: bool = False
    note: str = ""

    @property
    def ratio(self) -> float:
        return self.value / self.yardstick

    def worse_by(self, baseline: float) -> float:
        """How much worse the ratio is than the baseline's: 0.5 is half as much again, below 0 is better."""
        return (baseline / self.ratio if self.more_is_better else self.ratio / baseline) - 1


def boot(found: dict[str, Any]) -> Iterable[Figure]:
    libraries, kilo = (
        ("importing the libraries", found["libraries"]),
        ("one kilo server alone", found["kilo_ready"]),
    )
    yield Figure("boot", "process start to /health", "s", found["health"], *libraries)
    yield Figure("gate", "process start to an open gate", "s", found["gate"], *kilo)
    yield Figure("starts", "mayor, 0.3 s after /health", "s", found["mayor"], *kilo)
    yield Figure("starts", "all agents of the registry resumed", "s", found["resumed"], *kilo)
    if found["refreshed_of"]:
        yield Figure("refresh", "/refresh-token over all agents", "s", found["refresh"], *libraries, SHAKY)


def events(found: dict[str, Any]) -> Iterable[Figure]:
    direct = ("reading and parsing alone", found["direct_per_second"])
    for row in found["rows"]:
        if row["clients"]:
            name = f"to each of {row['clients']} websockets" if row["clients"] > 1 else "to one websocket"
            lost = f"{row['told_lost']:,.0f} of {found['events']:,} told as lost"
            yield Figure("events", name, "/s", row["each_per_second"], *direct, more_is_better=True, note=lost)
        else:
            outbox = f"{row['merged']:,} merged, {row['dropped']:,} dropped"
            rate = row["worker_per_second"]
            yield Figure("events", "to the worker", "/s", rate, *direct, more_is_better=True, note=outbox)


def git(found: dict[str, Any]) -> Iterable[Figure]:
    plain = ("git alone: clone and worktree", found["plain"])
    for row in found["rows"]:
        seconds = sum(value for name, value in row.items() if name.endswith("_seconds"))
        if row["clone"] == "partial":
            yield Figure("git", f"git's part of a start, {row['start']}", "s", seconds, *plain)


def drain(found: dict[str, Any]) -> Iterable[Figure]:
    ends, turn = ("one kilo server's end", found["one_kilo_ends"]), ("the turn itself", found["turn"])
    yield Figure("drain", f"{found['agents']} idle agents", "s", found["idle"], *ends)
    yield Figure("drain", "one agent in the midst of a turn", "s", found["in_turn"], *turn)


def memory(found: dict[str, Any]) -> Iterable[Figure]:
    libraries = ("importing the libraries", found["libraries"])
    for number, megabytes in found["control"].items():
        yield Figure("memory", f"control process, {number} agents", "MB", megabytes, *libraries, STEADY)
    yield Figure("memory", "one kilo server", "MB", found["kilo"], *libraries, STEADY)


def broker(found: dict[str, Any]) -> Iterable[Figure]:
    for row in found["rows"]:
        many = "one stream" if row["streams"] == 1 else f"{row['streams']} streams"
        for name, unit, key, noise in (
            ("first byte", "ms", "first_median", SHAKY),
            ("a frame", "ms", "frame_median", SHAKY),
            ("large answers", "MB/s", "megabytes_per_second", USUAL),
        ):
            through, direct = row["broker"][key], ("direct", row["direct"][key])
            yield Figure("broker", f"{name}, {many}", unit, through, *direct, noise, more_is_better=unit != "ms")


COLLECTED = {"boot": boot, "events": events, "git": git, "memory": memory, "drain": drain, "broker": broker}
"""What each part of the benchmark writes with `--json`, as figures. A part is the module of that name."""
