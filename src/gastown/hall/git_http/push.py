"""What a push asks for, read from the head of its body, and the answer that refuses it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from gastown.hall.git_http.body import Body, Unreadable

__all__ = ["Command", "Push", "read_push", "refusal"]

_HEAD_BYTES = 1024 * 1024
"""Some 10,000 branches in one push."""
_LONGEST_LINE = 65520
_COMMAND = re.compile(rb"([0-9a-f]{40,64}) ([0-9a-f]{40,64}) ([^\n\0]+)\n?")


@dataclass(frozen=True)
class Command:
    """Move `name` from one commit to another one; a commit of zeros only is none."""

    old: str
    new: str
    name: bytes

    @property
    def creates(self) -> bool:
        return not self.old.strip("0")

    @property
    def deletes(self) -> bool:
        return not self.new.strip("0")


@dataclass(frozen=True)
class Push:
    """The commands of a push, and what its client understands."""

    commands: tuple[Command, ...]
    capabilities: frozenset[bytes]

    def of(self, branch: str) -> Command | None:
        """What is asked of a branch."""
        name = b"refs/heads/" + branch.encode()
        return next((one for one in self.commands if one.name == name), None)


async def read_push(body: Body) -> Push:
    """Read the commands, and put all that was read back. Raises as `Body.read`, and `Unreadable`."""
    head, at = bytearray(), 0
    commands: list[Command] = []
    capabilities: frozenset[bytes] = frozenset()
    while True:
        while (end := _end_of_line(head, at)) is None:
            piece = await body.read()
            if not piece:
                raise Unreadable("The push ends within its commands")
            head += piece
        if end == at:  # the flush after the last command
            break
        if end > _HEAD_BYTES:
            raise Unreadable("The push has too many commands")
        line, found = bytes(head[at + 4 : end]), at == 0
        if found:
            line, _, said = line.partition(b"\0")
            capabilities = frozenset(said.split())
        if not line.startswith(b"shallow "):
            commands.append(_command(line))
        at = end
    body.put_back(bytes(head))
    return Push(tuple(commands), capabilities)


def refusal(push: Push, reason: str) -> bytes:
    """The answer to a push none of whose commands is carried out: git shows `reason` beside each of them."""
    lines = [b"unpack ok\n", *(b"ng " + one.name + b" " + reason.encode() + b"\n" for one in push.commands)]
    report = b"".join(_line(line) for line in lines) + b"0000"
    if not push.capabilities & {b"report-status", b"report-status-v2"}:
        return b""
    if b"side-band-64k" in push.capabilities:
        pieces = (report[start : start + 65000] for start in range(0, len(report), 65000))
        return b"".join(_line(b"\x01" + piece) for piece in pieces) + b"0000"
    return report


def _end_of_line(head: bytearray, at: int) -> int | None:
    """Where the line that begins at `at` ends; `at` for a flush, None where it is not all there."""
    if len(head) < at + 4:
        return None
    try:
        length = int(bytes(head[at : at + 4]), 16)
    except ValueError:
        raise Unreadable("The push does not begin as one of git") from None
    if length == 0:
        return at
    if not 4 < length <= _LONGEST_LINE:
        raise Unreadable("The push does not begin as one of git")
    return at + length if len(head) >= at + length else None


def _command(line: bytes) -> Command:
    found = _COMMAND.fullmatch(line)
    if found is None:
        raise Unreadable("The push is not plain commands; signed pushes are not taken")
    return Command(found[1].decode(), found[2].decode(), found[3])


def _line(content: bytes) -> bytes:
    return b"%04x" % (len(content) + 4) + content
