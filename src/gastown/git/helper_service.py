"""The control server's side of the credential helper: one question and one answer per connection."""

from __future__ import annotations

import json
import os
import secrets
import socket
import struct
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import structlog
import trio

from gastown.contract.git import is_one_line
from gastown.git.access import HelperAccess
from gastown.git.credentials import OWN, GitCredentials
from gastown.isolation.ownership import remove_tree

__all__ = ["NoSocketFolder", "make_socket_folder", "open_helper_service"]

log = structlog.get_logger()

_QUESTION_LIMIT = 16 * 1024
_SECONDS = 18.0
"""A renewed token may have to be fetched first; the helper itself waits 20 s."""
_HELPERS_AT_A_TIME = 128
_LONGEST_SOCKET = 107
"""Bytes of a path that the kernel takes for a socket."""
_SOCKET, _SHORT = "s", "/tmp"  # noqa: S108 - a new folder in it, ours alone


class NoSocketFolder(Exception):
    """No folder can have a socket: none can be written, or its path is too long. The message says what to set."""


def make_socket_folder() -> Path:
    """A new folder of ours for the socket: in TMPDIR, or where that is too long a path in /tmp."""
    try:
        folder = Path(tempfile.mkdtemp(prefix="gastown-git-"))
    except OSError as error:
        raise NoSocketFolder(
            f"there is no folder for temporary files ({error.strerror}): set TMPDIR to one that can be written"
        ) from error
    if len(os.fsencode(folder / _SOCKET)) <= _LONGEST_SOCKET:
        return folder
    folder.rmdir()
    try:
        return Path(tempfile.mkdtemp(prefix="gastown-git-", dir=_SHORT))
    except OSError as error:
        raise NoSocketFolder(
            f"TMPDIR is too long for a socket, and {_SHORT} cannot be used ({error.strerror}): "
            "set TMPDIR to a folder whose path has at most 80 bytes"
        ) from error


@asynccontextmanager
async def open_helper_service(
    credentials: GitCredentials, *, for_all: bool = False, python: str = sys.executable
) -> AsyncIterator[HelperAccess]:
    """Answer helpers for the length of the block, on a socket in a directory that only this user may enter.

    `for_all`: that every user may reach. The key names the asker, and the kernel says which user's process
    presents it. Raises `NoSocketFolder`.
    """
    directory = make_socket_folder()
    try:
        access = HelperAccess(str(directory / _SOCKET), secrets.token_bytes(32), python)
        with trio.socket.socket(socket.AF_UNIX) as listening:
            await listening.bind(access.socket)
            await trio.Path(access.socket).chmod(0o666 if for_all else 0o600)
            if for_all:
                await trio.Path(directory).chmod(0o711)
            listening.listen(_HELPERS_AT_A_TIME)
            async with trio.open_nursery() as nursery:
                answer, listeners = partial(_answer, credentials, access), [trio.SocketListener(listening)]
                await nursery.start(trio.serve_listeners, answer, listeners, name="git helper")
                yield access
                nursery.cancel_scope.cancel(reason="the town closes")
    finally:
        remove_tree(directory)


async def _answer(credentials: GitCredentials, access: HelperAccess, stream: trio.SocketStream) -> None:
    with trio.move_on_after(_SECONDS):
        try:
            question = json.loads(await _line(stream))
            asked = {str(k): str(v) for k, v in dict(question).items()}
            answer = await _reply(credentials, access, asked, _peer(stream))
            await stream.send_all(json.dumps(answer).encode() + b"\n")
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            log.info("git.helper_left")
        except (ValueError, TypeError) as error:
            log.warning("git.helper_question_unusable", reason=type(error).__name__)
    await stream.aclose()


async def _reply(
    credentials: GitCredentials, access: HelperAccess, asked: dict[str, str], uid: int
) -> dict[str, str]:
    owner = access.owner(asked.get("key", ""), uid)
    if owner is None:
        log.warning("git.helper_refused", uid=uid)
        return {}
    rig_id, agent_id = owner
    if asked.get("action") == "erase":
        credentials.refuse(asked.get("digest", ""))
        return {}
    origin = f"{asked.get('protocol')}://{asked.get('host', '').lower()}"
    login = await credentials.login(rig_id, agent_id, origin, asked.get("path", ""))
    asker = "gastown" if agent_id.startswith(OWN) else agent_id
    if login is not None and not is_one_line(login.username + login.password.reveal()):
        log.warning("git.token_unusable", rig_id=rig_id)
        login = None
    log.info("git.credentials_asked", rig_id=rig_id, asker=asker, origin=origin, given=login is not None)
    return {"username": login.username, "password": login.password.reveal()} if login is not None else {}


def _peer(stream: trio.SocketStream) -> int:
    """The user whose process is at the other end, as the kernel knows it."""
    peer = stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", peer)[1])


async def _line(stream: trio.SocketStream) -> bytes:
    question = b""
    while not question.endswith(b"\n"):
        chunk = await stream.receive_some(4096)
        question += chunk
        if not chunk or len(question) > _QUESTION_LIMIT:
            break
    return question
