"""Cutting a stream of server-sent events."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gastown.kilo import frames
from gastown.kilo.frames import FrameReader, FrameTooLarge

STREAM = (
    b'data: {"a": 1}\n\n: a comment\n\nid: 7\nevent: x\ndata: {"b":\ndata: 2}\n\n'
    b'data:{"c": 3}\r\n\r\n\n\ndata: {"d": "\\n\\n"}\n\ndata: not whole'
)
FRAMES = [b'{"a": 1}', b'{"b":\n2}', b'{"c": 3}', b'{"d": "\\n\\n"}']


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_wherever_the_stream_is_cut_the_frames_are_the_same(places: list[int]) -> None:
    reader, found = FrameReader(1000), []
    for begin, end in zip([0, *sorted(places)], [*sorted(places), len(STREAM)], strict=True):
        found += reader.feed(STREAM[begin:end])
    assert [frame.replace(b"\r", b"").strip() for frame in found] == FRAMES


def test_a_frame_without_end_is_given_up() -> None:
    reader = FrameReader(1000)
    for _ in range(10):
        assert reader.feed(b"x" * 100) == []
    with pytest.raises(FrameTooLarge):
        reader.feed(b"x")


def test_many_frames_may_be_larger_than_one_may() -> None:
    assert len(FrameReader(100).feed(b"data: 12345678\n\n" * 50)) == 50


def test_each_byte_of_an_unfinished_frame_is_searched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame without an end, in small pieces: the work grows with the bytes and not with their square."""
    searched = 0

    class Counting:
        def search(self, text: bytearray, begin: int) -> object:
            nonlocal searched
            searched += len(text) - begin
            return end.search(text, begin)

    end = frames._END
    monkeypatch.setattr(frames, "_END", Counting())
    reader = FrameReader(1 << 25)
    pieces = [b"data: x\n" * 31_000, *[b"data:x\n"] * 3000]
    for piece in pieces:
        assert reader.feed(piece) == []
    assert searched <= sum(map(len, pieces)) + 3 * len(pieces)
    assert len(reader.feed(b"\n")) == 1
