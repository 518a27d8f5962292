"""Cutting kilo's event stream into frames: `data: {json}` and an empty line, microseconds apart in a flood."""

from __future__ import annotations

__all__ = ["FrameReader", "FrameTooLarge"]


class FrameTooLarge(Exception):
    """A frame is larger than anything that kilo has to say."""


class FrameReader:
    """Takes the stream as it comes in, and gives the data of each frame once it is whole."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of the frames that `chunk` completes. Raises `FrameTooLarge`."""
        self._parts.append(chunk)
        self._size += len(chunk)
        found: list[bytes] = []
        if b"\n" in chunk:  # a large frame comes in many chunks: only the last one is worth a search
            *whole, rest = b"".join(self._parts).replace(b"\r\n", b"\n").split(b"\n\n")
            self._parts, self._size = [rest], len(rest)
            found = [data for frame in whole if (data := _data(frame))]
        if self._size > self._most:
            raise FrameTooLarge(f"a frame of more than {self._most} bytes")
        return found


def _data(frame: bytes) -> bytes:
    """What a frame carries; nothing for a comment, and for one without data."""
    if frame.startswith(b"data: ") and b"\n" not in frame:
        return frame[6:]
    lines = [line[5:].removeprefix(b" ") for line in frame.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines)
