"""The boot waterfall: what happened when, as bars on one time axis. Pure functions, no I/O."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from gastown.contract.town import Phase
from gastown.contract.worker import StartupPhaseEvent

__all__ = ["Bar", "Sightings", "bars_from", "render"]

_MOST_NAME, _LEAST_NAME = 34, 12
_MOST_NOTE = 28
_LEAST_PLOT = 20
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_GREEN, _YELLOW, _PLAIN = "\x1b[32m", "\x1b[33m", "\x1b[0m"


@dataclass(frozen=True)
class Bar:
    """A phase, in milliseconds since the axis begins. `end_ms` is None while it goes on."""

    name: str
    start_ms: float
    end_ms: float | None
    note: str = ""

    @property
    def duration_ms(self) -> float | None:
        return None if self.end_ms is None else self.end_ms - self.start_ms


@dataclass(kw_only=True)
class Sightings:
    """What `up` observed, in milliseconds since it began; None for what has not happened.

    `timeline` and `startup` are reported by the container: the former counts from `spawned_ms`, the latter from
    the arrival of the start request, for which `requested_ms` stands.
    """

    hall_ms: float | None = None
    spawned_ms: float | None = None
    healthy_ms: float | None = None
    gate_ms: float | None = None
    requested_ms: float | None = None
    started_ms: float | None = None
    prompted_ms: float | None = None
    first_word_ms: float | None = None
    answered_ms: float | None = None
    start_name: str = "mayor start"
    answer_note: str = ""
    timeline: Sequence[Phase] = ()
    startup: Sequence[StartupPhaseEvent] = field(default_factory=list[StartupPhaseEvent])


def bars_from(seen: Sightings) -> list[Bar]:
    """The bars of a boot, in the order of their beginnings; what belongs to one stands below it, indented."""
    return [
        *_between("hall", None if seen.hall_ms is None else 0, seen.hall_ms),
        *_between("container process", seen.spawned_ms, seen.healthy_ms),
        *sorted(_timeline(seen), key=lambda bar: bar.start_ms),
        *_between(seen.start_name, seen.requested_ms, seen.started_ms),
        *sorted(_startup(seen), key=lambda bar: bar.start_ms),
        *_turn(seen),
    ]


def _between(name: str, start: float | None, end: float | None, note: str = "") -> Iterable[Bar]:
    if start is not None:
        yield Bar(name, start, end, note)


def _turn(seen: Sightings) -> Iterable[Bar]:
    if seen.first_word_ms is None and seen.answered_ms is not None:
        yield from _between("turn without a word", seen.prompted_ms, seen.answered_ms, seen.answer_note)
        return
    yield from _between("first word", seen.prompted_ms, seen.first_word_ms)
    yield from _between("answer", seen.first_word_ms, seen.answered_ms, seen.answer_note)


def _timeline(seen: Sightings) -> Iterable[Bar]:
    origin = seen.spawned_ms or 0
    for phase in seen.timeline:
        start = origin + phase.start_ms
        end = None if phase.duration_ms is None else start + phase.duration_ms
        notes = [note for note in (phase.agent_id, phase.outcome) if note and note != "ok"]
        yield Bar(f"  {phase.name}", start, end, ", ".join(notes))


def _startup(seen: Sightings) -> Iterable[Bar]:
    if seen.requested_ms is None:
        return
    for phase in seen.startup:
        end = seen.requested_ms + phase.elapsed_ms
        yield Bar(f"  {phase.label}", end - phase.phase_ms, end)


def render(bars: Sequence[Bar], width: int, *, colour: bool = False, blocks: bool = True) -> list[str]:
    """The lines of the waterfall, none wider than `width` columns (but a plot has at least 20 of them).

    A narrow terminal gets no notes. `blocks` draws with block characters, else with `#`; `colour` adds
    terminal colours.
    """
    if not bars:
        return []
    last = max(bar.start_ms if bar.end_ms is None else bar.end_ms for bar in bars)
    step, ticks = _axis(max(last, 1.0))
    names = [_cut(bar.name, min(_MOST_NAME, max(_LEAST_NAME, width // 3))) for bar in bars]
    times = [_milliseconds(bar.duration_ms) for bar in bars]
    notes = [_cut(bar.note, _MOST_NOTE) for bar in bars]
    left, middle, right = (max(map(len, column)) for column in (names, times, notes))
    room = width - left - middle - len("  ││")
    if right and room - 1 - right >= _LEAST_PLOT:
        room -= 1 + right
    else:
        notes = [""] * len(bars)
    plot = max(_LEAST_PLOT, room)
    scale = plot / (step * ticks)
    lines = [" " * (left + middle + 3) + _tick_line(step, ticks, plot)]
    for bar, name, time, note in zip(bars, names, times, notes, strict=True):
        drawn = _draw(bar, scale, plot, blocks=blocks)
        edge = "│" if blocks else "|"
        line = f"{name:<{left}} {time:>{middle}} {edge}{drawn}{edge} {note}".rstrip()
        if colour:
            shade = _YELLOW if bar.end_ms is None else _GREEN
            line = line.replace(drawn, f"{shade}{drawn}{_PLAIN}")
        lines.append(line)
    return lines


def _axis(last: float) -> tuple[float, int]:
    """A round step in milliseconds, and how many of them cover `last`: four to eight ticks."""
    rough = last / 6
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    return step, max(1, math.ceil(last / step))


def _tick_line(step: float, ticks: int, plot: int) -> str:
    unit, divisor = ("s", 1000.0) if step >= 100 else ("ms", 1.0)
    line = ""
    for tick in range(ticks):
        label = f"{tick * step / divisor:g}" + (f" {unit}" if tick == 1 else "")
        place = round(tick * plot / ticks)
        if place >= len(line) and place + len(label) <= plot:
            line = f"{line:<{place}}{label} "
    return line.rstrip()


def _draw(bar: Bar, scale: float, plot: int, *, blocks: bool) -> str:
    """One bar in `plot` columns; at least a sliver, so that a quick phase is still seen."""
    start = min(max(bar.start_ms, 0) * scale, plot - 0.125)
    end = plot if bar.end_ms is None else min(max(bar.end_ms * scale, start + 0.125), plot)
    if not blocks:
        first = int(start)
        return f"{' ' * first}{'#' * max(1, round(end) - first)}"[:plot].ljust(plot)
    first = int(start)
    # Block characters fill from the left: a bar begins at a whole column and ends at an eighth.
    whole, part = divmod(round((end - first) * 8), 8)
    drawn = " " * first + "█" * whole + (_EIGHTHS[part] if part else "")
    return (drawn if drawn.strip() else " " * first + _EIGHTHS[1])[:plot].ljust(plot)


def _milliseconds(duration: float | None) -> str:
    return "…" if duration is None else f"{duration:,.0f} ms".replace(",", " ")


def _cut(text: str, limit: int) -> str:
    plain = "".join(c if c.isprintable() else " " for c in text)
    return plain if len(plain) <= limit else plain[: limit - 1] + "…"
