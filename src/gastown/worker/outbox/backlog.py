"""Events that wait for the worker: a queue per agent, bounded over all agents; a full one drops some."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import merge
from itertools import chain
from operator import attrgetter
from typing import Any, NamedTuple

import trio

from gastown.contract.events import AgentEvent

__all__ = ["GAVE_UP", "Backlog", "Entry", "Gap", "Lane", "merged"]

GAVE_UP = "outbox.gave_up"
"""The event that stands for those which were dropped."""

_DELTA, _PART = "message.part.delta", "message.part.updated"
_ROOM = 16
"""When the backlog is full, room is made for a sixteenth of it at a time, so that making it stays cheap."""
_OURS = "agent."
_LIFECYCLE = (_OURS, "session.turn.")
_MOST_WORTH = 3
_BESIDE_DELTA = 300
_PLACE = ("sessionID", "messageID", "partID", "field")


class Entry:
    """An event that waits. `part` is the message part that it is about; `size` is in bytes, for deltas a guess.

    `is_lifecycle`: the worker should hear of it, whatever else it does not hear.
    """

    __slots__ = ("_body", "at", "attempt_id", "data", "id", "is_lifecycle", "kind", "part", "size")

    def __init__(self, record: AgentEvent, at: float) -> None:
        data = record.data
        self.id = record.id
        self.kind = record.event
        self.attempt_id = record.attempt_id
        self.at = at
        self.is_lifecycle = self.kind.startswith(_LIFECYCLE) or self.kind == "session.error"
        self.part: str | None = None
        self.data = data
        self._body: str | None = None
        if self.kind == _DELTA and isinstance(data.get("delta"), str) and isinstance(data.get("partID"), str):
            # Not written out yet: when the backlog is full, it may become one with its neighbours.
            self.part = data["partID"]
            self.size = _BESIDE_DELTA + len(data["delta"])
            return
        if self.kind == _PART and isinstance(part := data.get("part"), dict) and isinstance(part.get("id"), str):
            self.part = part["id"]
        self._body = json.dumps(data)
        self.data = {}
        self.size = len(self._body)

    @property
    def body(self) -> str:
        """The event's data as JSON, in ASCII."""
        return self._body if self._body is not None else json.dumps(self.data)

    def continues(self, before: Entry) -> bool:
        """Whether both are pieces of the same text, so that one piece can say what both do."""
        return (
            self._body is None
            and before._body is None
            and self.part == before.part
            and self.attempt_id == before.attempt_id
            and self._place() == before._place()
        )

    def join(self, pieces: list[Entry]) -> Entry:
        """Become one with `pieces`, of which this is the first."""
        if len(pieces) > 1:
            text = "".join(entry.data["delta"] for entry in pieces)
            self.data = {**self.data, "delta": text}
            self.size = _BESIDE_DELTA + len(text)
        return self

    def _place(self) -> tuple[Any, ...]:
        return tuple(map(self.data.get, _PLACE))


class Gap(NamedTuple):
    """Events of an agent that were dropped: how many, the ids of the first and the last, and how many of them were
    lifecycle events.
    """

    dropped: int
    first: int
    last: int
    lifecycle: int = 0

    @classmethod
    def of(cls, entries: list[Entry]) -> Gap:
        """Of entries in their order; one at least."""
        return cls(len(entries), entries[0].id, entries[-1].id, sum(entry.is_lifecycle for entry in entries))

    def and_then(self, later: Gap | None) -> Gap:
        if later is None:
            return self
        return Gap(
            self.dropped + later.dropped,
            min(self.first, later.first),
            max(self.last, later.last),
            self.lifecycle + later.lifecycle,
        )


@dataclass(eq=False)
class Lane:
    """What waits of one agent, oldest first. `gap` is what the worker has to be told of before anything else.

    `taken` and `telling` are being sent. `one_by_one` is how many of the next events are to be sent alone.
    """

    rig_id: str
    agent_id: str
    queue: deque[Entry] = field(default_factory=deque[Entry])
    taken: list[Entry] = field(default_factory=list[Entry])
    gap: Gap | None = None
    telling: Gap | None = None
    one_by_one: int = 0

    @property
    def is_empty(self) -> bool:
        return not self.queue and self.gap is None

    def holds(self, event_id: int) -> bool:
        """Whether anything up to that event has not left yet."""
        oldest = self.oldest()
        told = self.gap is None and self.telling is None
        return not told or (oldest is not None and oldest.id <= event_id)

    def oldest(self) -> Entry | None:
        return self.taken[0] if self.taken else self.queue[0] if self.queue else None


class Backlog:
    """All lanes, within bounds of number and bytes.

    A full backlog first merges what is superseded, then drops the oldest events. Lifecycle events are dropped only
    where that is not enough, for a server can make any number of them; of each agent the first and the last stay
    longest. Both bounds hold, whatever comes. What is being sent counts and is left alone.
    """

    def __init__(self, *, most: int, most_bytes: int) -> None:
        self.lanes: dict[tuple[str, str], Lane] = {}
        self.depth = 0
        self.size = 0
        self.merged = 0
        self.dropped = 0
        self._most = most
        self._most_bytes = most_bytes

    def add(self, rig_id: str, agent_id: str, record: AgentEvent) -> Lane:
        """Append an event to its agent's queue; returns the lane."""
        key = rig_id, agent_id
        lane = self.lanes.get(key)
        if lane is None:
            lane = self.lanes[key] = Lane(rig_id, agent_id)
        entry = Entry(record, trio.current_time())
        lane.queue.append(entry)
        self.depth += 1
        self.size += entry.size
        if self.depth > self._most or self.size > self._most_bytes:
            self._make_room()
        return lane

    def take(self, lane: Lane, most: int, most_bytes: int) -> list[Entry]:
        """The next events of a lane, to be sent now: one at least, and no more than fit. End with `done`."""
        if lane.one_by_one:
            most = 1
        size = 0
        while lane.queue and len(lane.taken) < most and (not lane.taken or size < most_bytes):
            lane.taken.append(lane.queue.popleft())
            size += lane.taken[-1].size
        return lane.taken

    def done(self, lane: Lane) -> None:
        """What was taken has arrived, or will never."""
        for entry in lane.taken:
            self.depth -= 1
            self.size -= entry.size
        lane.one_by_one = max(0, lane.one_by_one - len(lane.taken))
        lane.taken = []

    def put_back(self, lane: Lane) -> None:
        """What was taken has to wait again."""
        lane.queue.extendleft(reversed(lane.taken))
        lane.taken = []

    def close(self, lane: Lane) -> None:
        """Forget a lane that is empty."""
        del self.lanes[lane.rig_id, lane.agent_id]

    def oldest(self) -> Iterator[Entry]:
        """The oldest event of each lane."""
        return (entry for lane in self.lanes.values() if (entry := lane.oldest()) is not None)

    def _make_room(self) -> None:
        self._merge()
        self._count()
        most, most_bytes = self._most - self._most // _ROOM, self._most_bytes - self._most_bytes // _ROOM
        for worth in range(_MOST_WORTH + 1):
            if self.depth > most or self.size > most_bytes:
                self._drop(worth, most, most_bytes)
                self._count()

    def _merge(self) -> None:
        for lane in self.lanes.values():
            before = len(lane.queue)
            lane.queue = deque(merged(lane.queue))
            self.merged += before - len(lane.queue)

    def _drop(self, worth: int, most: int, most_bytes: int) -> None:
        """Drop the oldest events of that worth, over all lanes, until what is left is within both numbers."""
        depth, size, last = self.depth, self.size, 0
        candidates = {lane: _worth(lane.queue, worth) for lane in self.lanes.values()}
        # Each lane is in order already, and only so much of them is looked at as has to go.
        for entry in merge(*candidates.values(), key=attrgetter("id")):
            if depth <= most and size <= most_bytes:
                break
            depth, size, last = depth - 1, size - entry.size, entry.id
        for lane, entries in candidates.items():
            gone = [entry for entry in entries if entry.id <= last]
            if gone:
                ids = {entry.id for entry in gone}
                lane.queue = deque(entry for entry in lane.queue if entry.id not in ids)
                gap = Gap.of(gone)
                lane.gap = gap if lane.gap is None else lane.gap.and_then(gap)
                self.dropped += len(gone)

    def _count(self) -> None:
        self.depth = sum(len(lane.taken) + len(lane.queue) for lane in self.lanes.values())
        self.size = sum(entry.size for lane in self.lanes.values() for entry in chain(lane.taken, lane.queue))


def _worth(entries: deque[Entry], worth: int) -> list[Entry]:
    """Those of `entries` that are worth just so much: 0 what is no lifecycle event, then of those a server's, then
    ours, and most of all the first and the last of either.
    """
    if worth == 0:
        return [entry for entry in entries if not entry.is_lifecycle]
    ends: set[int] = set()
    found: dict[bool, list[Entry]] = {False: [], True: []}
    for entry in entries:
        if entry.is_lifecycle:
            found[entry.kind.startswith(_OURS)].append(entry)
    for some in found.values():
        ends.update(entry.id for entry in some[:1] + some[-1:])
    if worth == _MOST_WORTH:
        return [entry for entry in entries if entry.id in ends]
    return [entry for entry in found[worth == 2] if entry.id not in ends]


def merged(entries: deque[Entry]) -> list[Entry]:
    """`entries` with the same meaning and fewer of them.

    A part that is told whole supersedes everything older that was said of it: earlier wholes, and the deltas
    that it contains. Deltas that follow one another in the same text become one.
    """
    told: set[str] = set()
    kept: list[Entry] = []
    for entry in reversed(entries):
        if entry.part is not None:
            if entry.part in told:
                continue
            if entry.kind == _PART:
                told.add(entry.part)
        kept.append(entry)
    kept.reverse()
    return list(_joined(kept))


def _joined(entries: list[Entry]) -> Iterator[Entry]:
    pieces: list[Entry] = []
    for entry in entries:
        if pieces and not entry.continues(pieces[0]):
            yield pieces[0].join(pieces)
            pieces = []
        pieces.append(entry)
    if pieces:
        yield pieces[0].join(pieces)
