"""One request carried out by `git http-backend`, as a process of ours that lives no longer than the request."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from http import HTTPStatus
from subprocess import PIPE

import trio

from gastown.asgi.origins import Send
from gastown.concurrency.processes import end_group, start_group
from gastown.hall.git_http.body import Body, ClientLeft, Unreadable

__all__ = ["BackendFailed", "run_backend"]

_PIECE = 64 * 1024
_HEAD_BYTES = 64 * 1024
_SAID_BYTES = 4096
_GRACE_SECONDS = 2.0
"""Between TERM, at which git removes its lock files, and KILL."""
_FINISH_SECONDS = 30.0
"""What a push that is here as a whole has to end when its client leaves, or the hall closes."""

_LOG = logging.getLogger("gastown.hall.git")


class BackendFailed(Exception):
    """git gave no answer. One sentence."""


async def run_backend(environment: Mapping[str, str], body: Body, send: Send, *, finishes: bool) -> None:
    """Let git answer a request: `body` goes in, its answer goes out as it comes.

    It ends with its client, and when it is cancelled. With `finishes` it has half a minute more once `body` is
    whole: git may be in the middle of moving a branch then, and of a work tree. No process is left afterwards.
    Raises `BackendFailed`, `ClientLeft` or `Unreadable` when nothing has been answered.
    """
    try:
        process = await start_group(("git", "http-backend"), "/", environment, None, PIPE)
    except OSError as error:
        raise BackendFailed(f"git cannot be run here: {error.strerror}") from None
    exchange = _Exchange(process, body, send, finishes=finishes)
    try:
        await exchange.run()
    finally:
        with trio.move_on_after(_GRACE_SECONDS + 3, shield=True):
            await end_group(process, _GRACE_SECONDS)
            await process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    await pipe.aclose()
    if exchange.problem is not None:
        raise exchange.problem
    if not exchange.answered:
        raise BackendFailed("git gave no answer")


class _Exchange:
    """`problem` is why a body could not be brought to git; it counts where git has not answered."""

    def __init__(self, process: trio.Process, body: Body, send: Send, *, finishes: bool) -> None:
        self._process = process
        self._body = body
        self._send = send
        self._finishes = finishes
        self._scope = trio.CancelScope()
        self._said = b""
        self.answered = False
        self.problem: Exception | None = None

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._hurry_at_the_end, name="git: end of the hall")
            with self._scope:
                async with trio.open_nursery() as inner:
                    inner.start_soon(self._feed, name="git: request")
                    inner.start_soon(self._listen, name="git: stderr")
                    await self._answer()
                    inner.cancel_scope.cancel(reason="git has answered")
            nursery.cancel_scope.cancel(reason="git has ended")
        if self._said:
            _LOG.info("git said: %s", self._said.decode(errors="replace").strip())

    async def _hurry_at_the_end(self) -> None:
        """A scope with a shield does not see that the hall closes: let it end soon then."""
        try:
            await trio.sleep_forever()
        finally:
            self._scope.deadline = min(self._scope.deadline, trio.current_time() + _FINISH_SECONDS)

    async def _feed(self) -> None:
        """Bring git the body, and wait until the client leaves. What git does not want to read is dropped."""
        pipe = self._process.stdin
        assert pipe is not None  # noqa: S101 - opened as a pipe
        try:
            while piece := await self._body.read():
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await pipe.send_all(piece)
        except (ClientLeft, Unreadable) as error:
            self.problem = None if self.answered else error
            self._scope.cancel(reason="there is no whole request")
            return
        self._scope.shield = self._finishes
        await pipe.aclose()
        await self._body.left()
        self._scope.deadline = trio.current_time() + (_FINISH_SECONDS if self._finishes else 0)

    async def _listen(self) -> None:
        pipe = self._process.stderr
        assert pipe is not None  # noqa: S101 - opened as a pipe
        async for piece in pipe:
            self._said = (self._said + piece)[:_SAID_BYTES]

    async def _answer(self) -> None:
        pipe = self._process.stdout
        assert pipe is not None  # noqa: S101 - opened as a pipe
        head = b""
        while b"\r\n\r\n" not in head and len(head) < _HEAD_BYTES:
            piece = await pipe.receive_some(_PIECE)
            if not piece:
                return
            head += piece
        lines, _, rest = head.partition(b"\r\n\r\n")
        status, headers = _read_head(lines)
        self.answered = True
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        piece = rest or await pipe.receive_some(_PIECE)
        while piece:
            await self._send({"type": "http.response.body", "body": piece, "more_body": True})
            piece = await pipe.receive_some(_PIECE)
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})


def _read_head(lines: bytes) -> tuple[int, list[tuple[bytes, bytes]]]:
    """Status and headers of an answer as CGI programs give it."""
    status, headers = int(HTTPStatus.OK), list[tuple[bytes, bytes]]()
    for line in lines.split(b"\r\n"):
        name, _, value = line.partition(b":")
        name, value = name.strip().lower(), value.strip()
        if name == b"status":
            digits = value[:3]
            status = int(digits) if digits.isdigit() else int(HTTPStatus.BAD_GATEWAY)
        elif name:
            headers.append((name, value))
    return status, headers
