"""What `up` writes to the terminal."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import StringIO
from typing import TextIO

import trio

from gastown.hall.cli.waterfall import Bar, render
from gastown.log_sink import LineSink

__all__ = ["Screen", "open_screen"]

_COLUMNS = 100


@dataclass
class Screen:
    """A terminal, or a stream in its place. A model's text is shown without control characters.

    What a terminal that is gone, a full disk or a pipe without a reader does not take is dropped without an error,
    and a stopped terminal is not waited for: the town's hall runs on the same thread.
    """

    out: TextIO | LineSink
    width: int = _COLUMNS
    colour: bool = False
    blocks: bool = True
    encoding: str = "utf-8"
    _midline: bool = False

    async def reader_left(self) -> None:
        """Return when the output is a pipe and what reads it has gone, as below `up | head`."""
        if isinstance(self.out, LineSink) and stat.S_ISFIFO(os.fstat(self.out.descriptor).st_mode):
            await trio.lowlevel.wait_readable(
                self.out.descriptor
            )  # of its writing end: only the error is reported
        else:
            await trio.sleep_forever()

    def settle(self) -> None:
        """Wait, a second at most, until what was written is out; for what is written elsewhere after it."""
        if isinstance(self.out, LineSink):
            self.out.settle()

    def line(self, text: str = "") -> None:
        """Write `text` as a line (or lines) of its own."""
        self.end_line()
        self._write(text + "\n")

    def end_line(self) -> None:
        """End a line that was begun, so that the next output starts on a line of its own."""
        if self._midline:
            self._write("\n")
            self._midline = False

    def say(self, text: str) -> None:
        """Write a piece of a model's text where the one before ended."""
        shown = "".join(c if c.isprintable() or c in "\n\t" else "" for c in text)
        if shown:
            self._write(shown)
            self._midline = not shown.endswith("\n")

    def waterfall(self, bars: Sequence[Bar]) -> None:
        """Draw the boot waterfall."""
        self.line("\n".join(render(bars, self.width, colour=self.colour, blocks=self.blocks)))

    def _write(self, text: str) -> None:
        self.out.write(text.encode(self.encoding, "replace").decode(self.encoding))
        self.out.flush()


def open_screen(out: TextIO | None, env: Mapping[str, str]) -> Screen:
    """A screen over `out`, fit for what it is: a terminal, a pipe, one that knows only ASCII, closed (None)."""
    if out is None:
        return Screen(StringIO())
    tty = out.isatty()
    try:
        width = os.get_terminal_size(out.fileno()).columns if tty else _COLUMNS
    except OSError:
        width = _COLUMNS
    encoding = getattr(out, "encoding", None) or "ascii"
    try:
        "│█▏…".encode(encoding)
        blocks = True
    except UnicodeEncodeError:
        blocks = False
    colour = tty and "NO_COLOR" not in env and env.get("TERM") != "dumb"
    sink: TextIO | LineSink = out
    with suppress(OSError):  # a stream of Python's own has no descriptor
        sink = LineSink(out.fileno())
    return Screen(sink, width=width or _COLUMNS, colour=colour, blocks=blocks, encoding=encoding)
