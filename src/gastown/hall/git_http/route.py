"""The path /git/TOWN/RIG.git of the hall: a folder of the town, for those who have the town's token for git."""

from __future__ import annotations

import base64
import binascii
import logging
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import trio

from gastown.asgi.origins import App, Receive, Scope, Send
from gastown.contract.secret import Secret
from gastown.hall.domain.town import RigRecord
from gastown.hall.folders import git_environment
from gastown.hall.git_http.backend import BackendFailed, run_backend
from gastown.hall.git_http.body import Body, ClientLeft, Unreadable
from gastown.hall.git_http.push import Push, read_push, refusal
from gastown.hall.reconcile.state import HandInPhase
from gastown.hall.store.database import Store
from gastown.hall.store.lane import StoreBusy
from gastown.hall.tokens import InvalidToken, claimed_town, verify
from gastown.hall.tokens import Scope as TokenScope

__all__ = ["GitOverHttp"]

_AT_A_TIME = 16
_PATH = re.compile(
    r"/git/(?P<town>[^/]+)/(?P<rig>[^/]+)\.git/(?P<what>info/refs|git-upload-pack|git-receive-pack)\Z"
)
_PUSH = "git-receive-pack"
_SERVICES = frozenset(("git-upload-pack", _PUSH))
_SETTINGS = (
    ("http.uploadpack", "true"),
    ("http.receivepack", "true"),
    ("http.getanyfile", "false"),
    # The container clones without files, and asks for those of a worktree by name.
    ("uploadpack.allowFilter", "true"),
    ("uploadpack.allowAnySHA1InWant", "true"),
    # A branch that is checked out here is updated with its files, where they are as they were committed.
    ("receive.denyCurrentBranch", "updateInstead"),
    ("receive.autogc", "false"),
    ("transfer.advertiseSID", "false"),
)
_NO_FORCE = ("receive.denyNonFastForwards", "true")

_LOG = logging.getLogger("gastown.hall.git")


class _Refused(Exception):
    """An answer other than git's: a status, and a sentence, which git shows to whoever has called it."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence


class _Asked(NamedTuple):
    town_id: str
    rig_id: str
    what: str
    method: str
    query: str
    headers: dict[str, str]

    @property
    def is_push(self) -> bool:
        return self.what == _PUSH


@dataclass(frozen=True)
class GitOverHttp:
    """Answers git below /git/, and leaves everything else to `app`."""

    app: App
    store: Store
    now: Callable[[], datetime]
    _slots: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(_AT_A_TIME))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        if scope["type"] != "http" or not scope["path"].startswith("/git/"):
            await self.app(scope, receive, send)
            return
        try:
            asked = _read(scope)
            await self._let_in(asked)
            body = Body(receive, asked.headers.get("content-encoding", "").strip().lower())
            await self._answer(asked, await self._rig(asked), body, send)
        except _Refused as refused:
            await _say(send, refused.status, refused.sentence)
        except Unreadable as error:
            await _say(send, 400, str(error))
        except StoreBusy as error:
            await _say(send, 503, str(error))
        except BackendFailed as error:
            _LOG.warning("git failed: %s", error)
            await _say(send, 500, str(error))
        except ClientLeft:
            _LOG.info("a client of git has left")

    async def _let_in(self, asked: _Asked) -> None:
        try:
            token = _password(asked.headers.get("authorization", ""))
            secret = await self.store.jwt_secret(claimed_town(token))
            town_id = verify(token, secret or Secret(secrets.token_hex()), self.now(), scope=TokenScope.GIT)
        except InvalidToken as error:
            raise _Refused(401, f"A token of this town is needed: {error}") from None
        if town_id != asked.town_id:
            raise _Refused(401, "The token is for another town")

    async def _rig(self, asked: _Asked) -> RigRecord:
        town = await self.store.town(asked.town_id)
        for rig in town.rigs if town is not None else ():
            if rig.rig_id == asked.rig_id and rig.folder is not None:
                if not await trio.to_thread.run_sync(Path(rig.folder).is_dir):
                    raise _Refused(404, f"The folder of {rig.rig_id} is not there any more: {rig.folder}")
                return rig
        raise _Refused(404, "The town has no such folder")

    async def _answer(self, asked: _Asked, rig: RigRecord, body: Body, send: Send) -> None:
        settings = [*_SETTINGS]
        if asked.is_push:
            push = await read_push(body)
            reason = await self._reason_against(asked.town_id, rig, push)
            if reason is not None:
                await body.drop()
                await _send(send, 200, refusal(push, reason), "application/x-git-receive-pack-result")
                return
            if push.of(rig.default_branch) is not None:
                settings.append(_NO_FORCE)
        async with self._slots:
            environment = {**git_environment(settings), **_variables(asked, rig.folder or "")}
            await run_backend(environment, body, send, finishes=asked.is_push)

    async def _reason_against(self, town_id: str, rig: RigRecord, push: Push) -> str | None:
        """Why a push is refused; None when it may go on. Only a merge of the town may move the target branch."""
        target = push.of(rig.default_branch)
        if target is None or target.creates:  # a repository without a commit gets its first one
            return None
        if target.deletes:
            return f"{rig.default_branch} is the branch that the town merges into, and is not deleted"
        state = await self.store.state(town_id)
        merging = any(
            work.rig_id == rig.rig_id and work.hand_in is not None and work.hand_in.phase is HandInPhase.MERGING
            for work in state.work.values()
        )
        if merging:
            return None
        return f"only the town merges into {rig.default_branch}: push your own branch, and hand it in with gt_done"


def _read(scope: Scope) -> _Asked:
    found = _PATH.match(scope["path"])
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
    query = scope["query_string"].decode("latin-1")
    if found is None:
        raise _Refused(404, "There is nothing here but repositories, over git's smart HTTP")
    asked = _Asked(found["town"], found["rig"], found["what"], scope["method"], query, headers)
    if asked.what == "info/refs":
        if asked.method != "GET":
            raise _Refused(405, "Only GET is answered here")
        if query.removeprefix("service=") not in _SERVICES:
            raise _Refused(403, "Only git's smart HTTP is served")
    elif asked.method != "POST":
        raise _Refused(405, "Only POST is answered here")
    return asked


def _variables(asked: _Asked, folder: str) -> dict[str, str]:
    """The request as CGI programs get it. The body comes unpacked, and ends where it ends."""
    return {
        "GIT_HTTP_EXPORT_ALL": "1",
        "PATH_TRANSLATED": f"{folder}/{asked.what}",
        "REQUEST_METHOD": asked.method,
        "QUERY_STRING": asked.query,
        "CONTENT_TYPE": asked.headers.get("content-type", ""),
        "GIT_PROTOCOL": asked.headers.get("git-protocol", ""),
        "REMOTE_USER": "gastown",  # for git's own log of what moved a branch
        "REMOTE_ADDR": "127.0.0.1",
    }


def _password(header: str) -> Secret:
    scheme, _, encoded = header.partition(" ")
    try:
        shown = base64.b64decode(encoded.strip(), validate=True).decode() if scheme.lower() == "basic" else ""
    except (binascii.Error, ValueError):
        shown = ""
    password = shown.partition(":")[2]
    if not password:
        raise InvalidToken("none was shown")
    return Secret(password)


async def _say(send: Send, status: int, sentence: str) -> None:
    await _send(send, status, f"{sentence}\n".encode(), "text/plain; charset=utf-8")


async def _send(send: Send, status: int, content: bytes, kind: str) -> None:
    headers = [
        (b"content-type", kind.encode()),
        (b"content-length", str(len(content)).encode()),
        (b"cache-control", b"no-cache"),
    ]
    if status == 401:
        headers.append((b"www-authenticate", b'Basic realm="gastown"'))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content, "more_body": False})
