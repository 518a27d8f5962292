"""`/livez` while the event loop stands still: a thread answers it, on the very socket that the loop listens on.

As long as the loop goes round, the thread only looks at a counter. When it does not, nobody accepts, and the
thread does: a probe is answered, and every other connection is kept for the loop as it came (ADR 0022).
"""

from __future__ import annotations

import json
import selectors
import socket
import sys
import threading
import time
import traceback
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, closing, suppress
from functools import partial
from typing import cast

import structlog
import trio

from gastown.asgi.serving import Adopt
from gastown.concurrency.lag import LoopLag

__all__ = ["STANDS_STILL_SECONDS", "LoopWatch", "watch_loop"]

log = structlog.get_logger()

STANDS_STILL_SECONDS = 1.0
"""Twice the time between two beats; less than what a probe waits for its answer."""
_LOOK_EVERY_SECONDS = 0.25
_MOST_KEPT = 256
"""Connections kept for the loop; who comes after those is told to come back."""
_MOST_SILENT = 64
"""Connections that have said nothing yet and may turn out to be probes; the oldest gives way."""
_REQUEST_BYTES = 65_536
_PROBE = (b"GET /livez ", b"GET /livez?")
_FRAMES = 8

InLoop = Callable[[Callable[[], None]], None]


class LoopWatch:
    """The thread's side. `adopt` gets, in the loop, every connection that is the loop's; `in_loop` gets it there.

    What counts as standing still is the time in which this thread ran and the loop did not: a process that was
    stopped, or got no processor, is not taken for a stuck one when it goes on.
    """

    def __init__(
        self, listener: socket.socket, lag: LoopLag, budget: float, adopt: Adopt, in_loop: InLoop
    ) -> None:
        self.stood_still = 0.0
        self._listener = listener.dup()
        self._listener.setblocking(False)
        self._lag = lag
        self._budget = budget
        self._adopt = adopt
        self._in_loop = in_loop
        self._loop_thread = threading.get_ident()
        self._bell, self._ring = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._accepting = False
        self._silent: dict[socket.socket, None] = {}  # in the order of their arrival
        self._kept = 0
        self._where: list[str] = []

    def run(self, ready: Callable[[], None]) -> None:
        """Watch, until `stop`; calls `ready` first. Blocks; for a thread."""
        self._selector.register(self._bell, selectors.EVENT_READ)
        beats, looked = self._lag.beats, time.monotonic()
        ready()
        while True:
            rings = [cast(socket.socket, key.fileobj) for key, _ in self._selector.select(_LOOK_EVERY_SECONDS)]
            now = time.monotonic()
            if self._lag.beats != beats or self._bell in rings:
                beats = self._lag.beats
                self._goes_round()
            else:
                self._stands_still(min(now - looked, 2 * _LOOK_EVERY_SECONDS))
            if self._bell in rings:
                return
            looked = now
            for one in rings:
                self._serve(one)

    def stop(self) -> None:
        """Let `run` end; what it holds goes to the loop."""
        self._ring.close()

    def close(self) -> None:
        """Give everything back, once `run` has ended."""
        for owned in (self._selector, self._listener, self._bell, self._ring):
            owned.close()

    def _stands_still(self, seconds: float) -> None:
        before, self.stood_still = self.stood_still, self.stood_still + seconds
        if before < STANDS_STILL_SECONDS <= self.stood_still:
            self._where = self._stack()
            self._accept(wanted=True)
        if before < self._budget <= self.stood_still:
            # From here, for the loop may never write again. Nothing changes under what masks secrets: it has
            # stood still for the whole budget, and does so while this line is made.
            log.error("loop.stuck", seconds=round(self.stood_still, 1), where=self._where)

    def _goes_round(self) -> None:
        stood_still, self.stood_still = self.stood_still, 0.0
        if not self._accepting:
            return
        self._accept(wanted=False)
        for connection in list(self._silent):
            self._keep(connection)
        told = {"seconds": round(stood_still, 1), "where": self._where, "kept": self._kept}
        # In the loop: what masks secrets in the log looks at things that the loop changes again.
        self._in_loop(partial(log.warning, "loop.stood_still", **told))
        self._kept = 0

    def _accept(self, *, wanted: bool) -> None:
        self._accepting = wanted
        if wanted:
            self._selector.register(self._listener, selectors.EVENT_READ)
        else:
            self._selector.unregister(self._listener)

    def _serve(self, ready: socket.socket) -> None:
        if ready in self._silent:
            self._read(ready)
        elif ready is self._listener and self._accepting:
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, ConnectionError):  # the loop was faster, or the peer is gone
                return
            except OSError:
                time.sleep(_LOOK_EVERY_SECONDS)  # no descriptor is free: asked again at once, it would spin
                return
            if len(self._silent) >= _MOST_SILENT:
                self._keep(next(iter(self._silent)))
            connection.setblocking(False)
            self._silent[connection] = None
            self._selector.register(connection, selectors.EVENT_READ)

    def _read(self, connection: socket.socket) -> None:
        """Look at the first words without taking them; a probe is answered, anything else is the loop's."""
        try:
            begins = connection.recv(len(_PROBE[0]), socket.MSG_PEEK)
        except OSError:
            begins = b""
        if begins and not begins.startswith(_PROBE):
            self._keep(connection)
            return
        self._let_go(connection)
        if begins:
            _answer(connection, self._verdict())
        else:
            connection.close()

    def _keep(self, connection: socket.socket) -> None:
        self._let_go(connection)
        self._kept += 1
        if self._kept <= _MOST_KEPT:
            self._in_loop(partial(self._adopt, connection))
            return
        _answer(connection, _response(503, {"error": "The event loop stands still; come back later"}))

    def _let_go(self, connection: socket.socket) -> None:
        del self._silent[connection]
        self._selector.unregister(connection)

    def _verdict(self) -> bytes:
        stuck = self.stood_still >= self._budget
        body = {"status": "stuck" if stuck else "stalled", "stalledSeconds": round(self.stood_still, 1)}
        return _response(503 if stuck else 200, body)

    def _stack(self) -> list[str]:
        """Where the loop is, innermost last: files, lines and functions, no values."""
        frame = sys._current_frames().get(self._loop_thread)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        frames = traceback.extract_stack(frame, _FRAMES) if frame is not None else []
        return [f"{entry.filename}:{entry.lineno} {entry.name}" for entry in frames]


def _answer(connection: socket.socket, response: bytes) -> None:
    """Answer and close. What the peer has sent is read before, or the close would be a reset."""
    with closing(connection), suppress(OSError):
        with suppress(BlockingIOError):
            connection.recv(_REQUEST_BYTES)
        connection.sendall(response)


def _response(status: int, body: Mapping[str, object]) -> bytes:
    content = json.dumps(body).encode()
    reason = "OK" if status == 200 else "Service Unavailable"
    head = (
        f"HTTP/1.1 {status} {reason}\r\ncontent-type: application/json\r\ncontent-length: {len(content)}\r\n"
        f"cache-control: no-store\r\nconnection: close\r\n\r\n"
    )
    return head.encode("ascii") + content


@asynccontextmanager
async def watch_loop(
    listener: socket.socket, lag: LoopLag, budget: float, adopt: Adopt
) -> AsyncIterator[LoopWatch]:
    """Measure the present event loop and watch it for the length of the block; at its end the thread has ended.

    `listener` stays the caller's. `adopt` is called in the loop with every connection that came meanwhile, and
    owns it then. After `budget` seconds of standing still /livez says 503.
    """
    in_loop = trio.lowlevel.current_trio_token().run_sync_soon
    with closing(LoopWatch(listener, lag, budget, adopt, in_loop)) as watch:
        async with trio.open_nursery() as nursery:
            watching = trio.Event()
            nursery.start_soon(lag.measure, name="loop lag")
            nursery.start_soon(_run_in_thread, watch, partial(in_loop, watching.set), name="loop watch")
            try:
                await watching.wait()
                yield watch
            finally:
                watch.stop()
                nursery.cancel_scope.cancel(reason="the loop is not watched any more")


async def _run_in_thread(watch: LoopWatch, ready: Callable[[], None]) -> None:
    await trio.to_thread.run_sync(watch.run, ready, limiter=trio.CapacityLimiter(1), thread_name="livez")
