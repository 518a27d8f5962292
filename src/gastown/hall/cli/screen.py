"""What `up` writes to the terminal."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TextIO

from gastown.hall.cli.waterfall import Bar, render

__all__ = ["Screen", "open_screen"]

_COLUMNS = 100


@dataclass
class Screen:
    """A terminal, or a stream in its place. A model's text is shown without control characters."""

    out: TextIO
    width: int = _COLUMNS
    colour: bool = False
    blocks: bool = True
    _midline: bool = False

    def line(self, text: str = "") -> None:
        """Write `text` as a line (or lines) of its own."""
        self.end_line()
        self.out.write(text + "\n")
        self.out.flush()

    def end_line(self) -> None:
        """End a line that was begun, so that the next output starts on a line of its own."""
        if self._midline:
            self.out.write("\n")
            self._midline = False
            self.out.flush()

    def say(self, text: str) -> None:
        """Write a piece of a model's text where the one before ended."""
        shown = "".join(c if c.isprintable() or c in "\n\t" else "" for c in text)
        if shown:
            self.out.write(shown)
            self._midline = not shown.endswith("\n")
            self.out.flush()

    def waterfall(self, bars: Sequence[Bar]) -> None:
        """Draw the boot waterfall."""
        self.line("\n".join(render(bars, self.width, colour=self.colour, blocks=self.blocks)))


def open_screen(out: TextIO, env: Mapping[str, str]) -> Screen:
    """A screen over `out`, fit for what it is: a terminal, a pipe, one that knows only ASCII."""
    tty = out.isatty()
    try:
        width = os.get_terminal_size(out.fileno()).columns if tty else _COLUMNS
    except OSError:
        width = _COLUMNS
    try:
        "│█▏…".encode(getattr(out, "encoding", None) or "ascii")
        blocks = True
    except UnicodeEncodeError:
        blocks = False
    colour = tty and "NO_COLOR" not in env and env.get("TERM") != "dumb"
    return Screen(out, width=width or _COLUMNS, colour=colour, blocks=blocks)
