"""Cutting kilo's event stream into frames: `data: {json}` and an empty line, microseconds apart in a flood.

httpx2's `EventSource` does the same for decoded text. It lets the server choose the compression and the character
set, so a small chunk can become a very large one, and it takes nearly twice as long for a frame (ADR 0032).
"""

from __future__ import annotations

import re

__all__ = ["FrameReader", "FrameTooLarge"]

_END = re.compile(rb"\n\r?\n")
_LONGEST_END = 3


class FrameTooLarge(Exception):
    """A frame is larger than anything that kilo has to say."""


class FrameReader:
    """Takes the stream as it comes in, and gives the data of each frame once it is whole.

    The work is linear in the bytes of the stream, however it is cut: each is searched once.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._buffer = bytearray()

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of the frames that `chunk` completes. Raises `FrameTooLarge`."""
        unsearched = max(0, len(self._buffer) - _LONGEST_END + 1)
        self._buffer += chunk
        found, begin = [], 0
        while (end := _END.search(self._buffer, unsearched)) is not None:
            if data := _data(bytes(self._buffer[begin : end.start()])):
                found.append(data)
            begin = unsearched = end.end()
        if begin:
            del self._buffer[:begin]
        if len(self._buffer) > self._most:
            raise FrameTooLarge(f"a frame of more than {self._most} bytes")
        return found


def _data(frame: bytes) -> bytes:
    """What a frame carries; nothing for a comment, and for one without data."""
    if frame.startswith(b"data: ") and b"\n" not in frame:
        return frame[6:].removesuffix(b"\r")
    lines = [line.removesuffix(b"\r") for line in frame.split(b"\n")]
    return b"\n".join(line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:"))
