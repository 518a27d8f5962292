"""Where log lines go: a file descriptor that may be full, gone, or a pipe without a reader."""

from __future__ import annotations

import atexit
import os
import select
import threading
import time
import weakref
from typing import Any

import structlog

__all__ = ["LineSink"]

# Returns the line. The redactor is not in it: what is secret now may be asked for only where the event loop is.
log: Any = structlog.wrap_logger(
    structlog.ReturnLogger(),
    processors=[
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.JSONRenderer(),
    ],
    wrapper_class=structlog.BoundLogger,
)

_HELD_BYTES = 1024 * 1024
_PIECE_BYTES = 64 * 1024
_LAST_WORDS_SECONDS = 1.0


class LineSink:
    """A text stream, as far as a log needs one, whose `write` never raises and never waits.

    A thread of its own writes: nothing else keeps a write to a full pipe, a stopped terminal or a slow disk away
    from the caller, since O_NONBLOCK would be set for every process that shares the descriptor. What waits for
    the thread has at most `held_bytes`; a line that finds no room there is dropped, and so is what cannot be
    written. `dropped` counts these lines. Once writing works again, a line `log.dropped` says how many there were.

    The descriptor is the caller's. When the process ends, its last lines have a second to get out.
    """

    def __init__(self, descriptor: int, *, held_bytes: int = _HELD_BYTES) -> None:
        self.descriptor = descriptor
        self._held_bytes = held_bytes
        self.dropped = 0
        self.begin()
        _every.add(self)

    def begin(self) -> None:
        """Hold nothing and have no thread: at first, and in a forked child, where no thread is left."""
        self._changed = threading.Condition()
        self._lines: list[bytes] = []
        self._held = 0
        self._unsaid = 0
        self._torn = False
        self._thread: threading.Thread | None = None

    def write(self, text: str) -> int:
        """Take whole lines in. Returns their length, as a stream does, also when they are dropped."""
        content = text.encode(errors="backslashreplace")
        with self._changed:
            if self._held + len(content) > self._held_bytes:
                self._drop(content)
            elif content:
                self._lines.append(content)
                self._held += len(content)
                self._changed.notify_all()
            if self._thread is None:
                self._start()
        return len(text)

    def flush(self) -> None:
        """Do nothing: a stream has it, and a logger calls it for every line."""

    def settle(self, seconds: float = _LAST_WORDS_SECONDS) -> bool:
        """Wait until everything is written or dropped, for `seconds` at most; False when it is not."""
        with self._changed:
            return self._thread is None or self._changed.wait_for(lambda: not self._held, seconds)

    def _start(self) -> None:
        thread = threading.Thread(target=self._write_all, name="log sink", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no thread can be had now: the line waits, and the next one tries again
            return
        self._thread = thread

    def _write_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines)
                lines, self._lines = self._lines, []
            for piece in _pieces(lines):
                written = self._write_piece(piece)
                with self._changed:
                    self._drop(piece[written:])
                    unsaid, self._unsaid = (self._unsaid, 0) if written == len(piece) else (0, self._unsaid)
                if unsaid:
                    self._say(unsaid)
                with self._changed:
                    self._held -= len(piece)
                    self._changed.notify_all()

    def _say(self, unsaid: int) -> None:
        notice = f"{log.warning('log.dropped', lines=unsaid)}\n".encode()
        if self._write_piece(notice) < len(notice):
            with self._changed:
                self._unsaid += unsaid

    def _drop(self, content: bytes) -> None:
        lines = content.count(b"\n")
        self.dropped += lines
        self._unsaid += lines

    def _write_piece(self, piece: bytes) -> int:
        """How many bytes of it were written before a failure. Waits while the descriptor takes nothing."""
        written = 0
        try:
            if self._torn:  # a line that has only begun ends before the next one
                os.write(self.descriptor, b"\n")
                self._torn = False
            while written < len(piece):
                written += _write(self.descriptor, piece[written:])
        except OSError:
            self._torn = self._torn or (written > 0 and piece[written - 1 : written] != b"\n")
        return written


def _write(descriptor: int, content: bytes) -> int:
    while True:
        try:
            return os.write(descriptor, content)
        except BlockingIOError:  # another process that shares it has set O_NONBLOCK
            poll = select.poll()
            poll.register(descriptor, select.POLLOUT)
            poll.poll()


def _pieces(lines: list[bytes]) -> list[bytes]:
    """The lines, joined: each write gives the interpreter away, and a busy loop gives it back only after 5 ms."""
    pieces: list[bytes] = []
    piece: list[bytes] = []
    size = 0
    for line in lines:
        if piece and size + len(line) > _PIECE_BYTES:
            pieces.append(b"".join(piece))
            piece, size = [], 0
        piece.append(line)
        size += len(line)
    return [*pieces, b"".join(piece)]


_every: weakref.WeakSet[LineSink] = weakref.WeakSet()


def _last_words() -> None:
    deadline = time.monotonic() + _LAST_WORDS_SECONDS
    for sink in list(_every):
        sink.settle(max(0.0, deadline - time.monotonic()))


def _forked() -> None:
    for sink in list(_every):
        sink.begin()


atexit.register(_last_words)
os.register_at_fork(after_in_child=_forked)
