"""The event stream of a kilo server: what is dropped, and what makes it start again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from gastown.kilo.client import MOST_BYTES
from gastown.kilo.errors import KiloGarbled
from gastown.kilo.models import STATUSES, parse, read
from gastown.kilo.stream import DroppedFrames, KiloEvent, follow_events
from gastown.metrics.counters import Counter

pytestmark = pytest.mark.virtual_time

HELLO = b'data: {"payload": {"type": "server.connected", "properties": {}}}\n\n'
GOOD = b'data: {"payload": {"type": "x", "properties": {"sessionID": "s"}}}\n\n'


class Pieces:
    """Chunks as they come; without any, the connection stays silent."""

    def __init__(self, chunks: Iterator[bytes] | None) -> None:
        self._chunks = chunks

    def __aiter__(self) -> Pieces:
        return self

    async def __anext__(self) -> bytes:
        await trio.lowlevel.checkpoint()
        if self._chunks is None:
            await trio.sleep_forever()
        for chunk in self._chunks or ():
            return chunk
        raise StopAsyncIteration


class Streams:
    """A client whose connections give one list of chunks after the other, and then nothing more."""

    def __init__(self, *connections: Iterator[bytes]) -> None:
        self._connections = iter(connections)
        self.opened = 0

    @asynccontextmanager
    async def stream(self, _: str) -> AsyncIterator[AsyncIterator[bytes]]:
        self.opened += 1
        yield Pieces(next(self._connections, None))


async def test_after_a_frame_that_is_too_large_the_stream_is_opened_again() -> None:
    """An endless frame ends its connection, and not the agent: the next connection is read."""
    half = b"x" * (MOST_BYTES // 2 + 1)
    streams: Any = Streams(iter([HELLO, half, half]), iter([HELLO, GOOD]))
    heard: list[KiloEvent] = []
    again: list[str] = []
    dropped = DroppedFrames(Counter("gastown_server_frames_dropped_total"))
    with trio.move_on_after(20):
        await follow_events(streams, heard.append, lambda: again.append("again"), dropped)
    assert ([event.type for event in heard], again, streams.opened) == (["x"], ["again"], 3)


@pytest.mark.parametrize(
    "text", ['"\\ud800"', "NaN", "1e999", "9" * 400 + ".0", "[" * 101 + "]" * 101, "[" * 100_000]
)
def test_what_could_not_be_written_again_is_not_read(text: str) -> None:
    """`parse` refuses every JSON that would make an invalid answer of ours."""
    with pytest.raises(KiloGarbled, match="kilo answered GET /x with"):
        parse(text.encode(), "GET", "/x")


@pytest.mark.parametrize("text", ['"\\ud83d\\ude00"', "1e308", "[" * 100 + "]" * 100, "9" * 400])
def test_what_can_be_written_again_is_read(text: str) -> None:
    """The bounds of `parse` let through what is only unusual."""
    parse(text.encode(), "GET", "/x")


def test_the_sentence_about_an_answer_quotes_nothing_of_it() -> None:
    """What kilo said may be a secret, and a KiloGarbled goes into answers and the log."""
    with pytest.raises(KiloGarbled) as garbled:
        read(STATUSES, {"ses_1": {"type": 5, "message": "canary"}}, "GET", "/session/status")
    assert str(garbled.value) == (
        "kilo answered GET /session/status with what no kilo says (ses_1.type: Input should be a valid string)"
    )
