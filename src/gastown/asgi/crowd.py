"""How many connections a server has at once, and which of them end when another one comes."""

from __future__ import annotations

from collections import Counter as Multiset

import structlog
import trio

from gastown.asgi.hypercorn_seams import Watcher
from gastown.concurrency.descriptors import descriptor_limit

__all__ = ["Crowd", "Seat", "crowd_of"]

log = structlog.get_logger()

_MOST = 2000
_RESERVED = 8
_SAY_AGAIN_SECONDS = 60.0


class Seat(Watcher):
    """The place of one connection. `waits_since` is when it began to wait for a request; None while it has one.

    A `reserved` one is beyond the usual number: it is there for a probe, and for nothing else. Cancelling `scope`
    ends the connection.
    """

    def __init__(self, crowd: Crowd, *, reserved: bool = False) -> None:
        self.reserved = reserved
        self.waits_since: float | None = trio.current_time()
        self.scope = trio.CancelScope()
        self._crowd = crowd

    def waits(self, now_idle: bool) -> None:
        self.waits_since = trio.current_time() if now_idle else None

    def cut(self, reason: str) -> None:
        self._crowd.count(reason)


class Crowd:
    """The connections of the server that is called `server`: `most`, and `reserved` more for probes.

    When there is no room, the connection that has waited longest for a request ends. `cut` counts, by reason,
    connections that the server has ended or refused: `crowded`, `descriptors`, `silent`, `headers`, `message`.
    """

    def __init__(self, server: str, most: int, reserved: int) -> None:
        self.server = server
        self.most = most
        self.reserved = reserved
        self.cut: Multiset[str] = Multiset()
        self._seats: set[Seat] = set()
        self._quiet_until = -1.0

    @property
    def size(self) -> int:
        """How many connections there are."""
        return len(self._seats)

    def admit(self) -> Seat | None:
        """A seat for a new connection; None when there is none, and it has to be closed. End it with `leave`."""
        if self.size < self.most or self._end_one():
            seat = Seat(self)
        elif self.size < self.most + self.reserved:
            seat = Seat(self, reserved=True)
        else:
            self.count("crowded")
            return None
        self._seats.add(seat)
        return seat

    def leave(self, seat: Seat) -> None:
        """A connection is over."""
        self._seats.discard(seat)

    def out_of_descriptors(self) -> None:
        """A connection could not be accepted, for the process has too many files open."""
        if not self._end_one("descriptors"):
            self.count("descriptors")

    def count(self, reason: str) -> None:
        """Count a connection that was ended or refused, and say so once a minute."""
        self.cut[reason] += 1
        now = trio.current_time()
        if now >= self._quiet_until:
            self._quiet_until = now + _SAY_AGAIN_SECONDS
            log.warning(
                "connections.cut", server=self.server, reason=reason, open=self.size, most=self.most,
                counts=dict(self.cut),
            )  # fmt: skip

    def _end_one(self, reason: str = "crowded") -> bool:
        """End the connection that has waited longest for a request; False when every one has a request."""
        waiting = [(seat.waits_since, id(seat), seat) for seat in self._seats if seat.waits_since is not None]
        if not waiting:
            return False
        seat = min(waiting)[2]
        self._seats.discard(seat)
        seat.scope.cancel(reason="its place is needed")
        self.count(reason)
        return True


def crowd_of(server: str, share: float) -> Crowd:
    """A crowd for which `share` of the process's file descriptors are enough."""
    most = max(1, min(_MOST, int(descriptor_limit() * share)))
    return Crowd(server, most, min(_RESERVED, most))
