"""The phases of a process over time: the bars of a waterfall chart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import trio

__all__ = ["PhaseLog", "Span"]


@dataclass
class Span:
    """One phase. Times are seconds on Trio's clock; `end` is None while it goes on."""

    name: str
    start: float
    end: float | None = None

    @property
    def seconds(self) -> float:
        return (trio.current_time() if self.end is None else self.end) - self.start


class PhaseLog:
    """The phases of one attempt, in sequence; entering one ends the previous one.

    `on_enter` is called with each new name: so a log line and `GET …/status` follow a start.
    """

    def __init__(self, on_enter: Callable[[str], None] | None = None) -> None:
        self.spans: list[Span] = []
        self._on_enter = on_enter

    @property
    def current(self) -> str:
        """The phase that is running, or the last one that was."""
        return self.spans[-1].name if self.spans else "created"

    def enter(self, name: str) -> None:
        if self.spans and self.spans[-1].end is None and self.spans[-1].name == name:
            return
        self.close()
        self.spans.append(Span(name, trio.current_time()))
        if self._on_enter is not None:
            self._on_enter(name)

    def close(self) -> None:
        """End the running phase, if any."""
        if self.spans and self.spans[-1].end is None:
            self.spans[-1].end = trio.current_time()

    def seconds(self, name: str) -> float:
        """How long the phases of that name took together; 0.0 when there was none."""
        return sum(span.seconds for span in self.spans if span.name == name)
