"""A `kilo serve` without a process: its routes, its sessions, its events in their order (kilo 7.7.7).

What is claimed here is checked against the real one in tests/kilo/test_kilo_contract.py.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import trio

from gastown.contract.tools import mayor_tools
from gastown.testing.asgi import Answer, Asked, Frames, answer, app_of, locked
from gastown.testing.ptys import FakePtys

__all__ = ["BASE_TOOLS", "MAYOR_TOOLS", "FakeKilo", "Home", "Script", "Session"]

HEARTBEAT_SECONDS = 10.0
BASE_TOOLS = ("bash", "read", "edit", "write")
MAYOR_TOOLS = mayor_tools()
_RETRY_PAUSES = (2, 4, 9, 19, 33)
_WITH_ID = re.compile(r"/(?:ses|pty|net)_[^/]+")
_DURABLE = ("session.updated", "message.updated", "message.part.updated", "message.removed")


@dataclass
class Script:
    """How a server behaves; it may be changed while the server lives. Durations are virtual seconds.

    `status` is what the gateway answers, None for success: 400 to 404 fail the turn, 429 and 5xx are retried.
    It knows the models of its configuration, unless not `knows_configured`, and `models` beside them.
    The first `loses` prompts are stored and get no turn, as when a fresh instance's first turn is being aborted.
    `hangs` are routes ("GET /experimental/tool/ids") that never answer, `broken` routes that answer 500, `odd`
    holds what routes answer instead of what a kilo says; there, "*" stands for an id in a path.
    """

    instance_seconds: float = 0.2
    open_seconds: float = 0.1
    word_seconds: float = 0.5
    turn_seconds: float = 2.0
    status: int | None = None
    offline: bool = False
    never_opens_turn: bool = False
    loses: int = 0
    tools: tuple[str, ...] = BASE_TOOLS + MAYOR_TOOLS
    models: tuple[str, ...] = ()
    knows_configured: bool = True
    hangs: frozenset[str] = frozenset()
    broken: frozenset[str] = frozenset()
    odd: dict[str, Any] = field(default_factory=dict)


@dataclass
class Session:
    """A conversation as the database keeps it. `messages` are the `info` of each, oldest first."""

    id: str
    directory: str
    title: str
    model: dict[str, str] | None = None
    updated: int = 0
    messages: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "directory": self.directory,
            "title": self.title,
            "model": self.model,
            "time": {"created": 0, "updated": self.updated},
        }


class Home:
    """What kilo keeps in its database: the sessions of one agent's home. It survives its servers."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.sessions: dict[str, Session] = {}
        self.ids = count(1)
        self.clock = count(1)

    def session(self, directory: str, title: str) -> Session:
        session = Session(f"ses_{self.name}_{next(self.ids)}", directory, title, updated=next(self.clock))
        self.sessions[session.id] = session
        return session

    def message(self, session: Session, role: str, model: dict[str, str]) -> dict[str, Any]:
        info = {
            "id": f"msg_{self.name}_{next(self.ids)}",
            "sessionID": session.id,
            "role": role,
            "time": {"created": next(self.clock)},
            "modelID": model.get("modelID"),
        }
        session.messages.append(info)
        session.updated = next(self.clock)
        return info


@dataclass
class _Work:
    """What one server does for a session: the prompts that wait, the open turn, what it says of itself."""

    waiting: list[dict[str, Any]]
    turn: trio.CancelScope = field(default_factory=trio.CancelScope)
    status: dict[str, Any] | None = None


class FakeKilo:
    """One server. Turns run in `nursery`; `app` is its face. `asked` and `prompts` are what it was told, by
    those who knew its password.

    A killed server (`killed`) leaves its open turns in the database as they are; a `silent` one publishes
    nothing, not even heartbeats, on connections that stay open.
    """

    def __init__(
        self, nursery: trio.Nursery, home: Home, script: Script, models: tuple[str, ...], password: str
    ) -> None:
        self._nursery = nursery
        self._configured = models
        self._booted: dict[str, trio.Event] = {}
        self._listeners: list[trio.MemorySendChannel[str]] = []
        self._work: dict[str, _Work] = {}
        self._told: dict[str, trio.Event] = {}
        self._ids = count(1)
        self.home = home
        self.script = script
        self.asked: list[Asked] = []
        self.prompts: list[dict[str, Any]] = []
        self.killed = False
        self.silent = False
        self.ptys = FakePtys()
        self.app = locked(self.ptys.beside(app_of(self._handle)), "kilo", password)

    @property
    def listeners(self) -> int:
        return len(self._listeners)

    def emit(self, kind: str, session: Session, **properties: Any) -> None:
        """Publish an event as kilo does: session, message and part events come a second time as `sync`."""
        whole = {"sessionID": session.id, **properties}
        self._publish({"id": f"evt_{next(self._ids)}", "type": kind, "properties": whole}, session.directory)
        if kind in _DURABLE:
            again = {"type": f"{kind}.1", "seq": next(self._ids), "aggregateID": session.id, "data": whole}
            self._publish({"type": "sync", "syncEvent": again}, session.directory)

    def end_streams(self) -> None:
        """End every event stream cleanly, as kilo does with those of one directory."""
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    def interrupt(self) -> None:
        """What TERM does to open turns."""
        for name in self._work:
            self._abort(name)

    def _publish(self, payload: dict[str, Any], directory: str | None) -> None:
        frame = {"payload": payload}
        if directory is not None:
            frame = {"directory": directory, "project": "global", "payload": payload}
        self.publish(json.dumps(frame))

    def publish(self, frame: str) -> None:
        """Send a frame as it is, also one that no kilo sends."""
        for listener in [] if self.silent else list(self._listeners):
            try:
                listener.send_nowait(f"data: {frame}\n\n")
            except (trio.WouldBlock, trio.BrokenResourceError):
                self._listeners.remove(listener)

    async def _handle(self, asked: Asked) -> Answer | Frames:  # noqa: C901, PLR0911, PLR0912 - a route each
        self.asked.append(asked)
        parts = asked.path.strip("/").split("/")
        route = f"{asked.method} {asked.path}"
        if route in self.script.hangs:
            await trio.sleep_forever()
        if route in self.script.broken:
            return _error(500, "UnknownError", "Unexpected server error")
        if (odd := _WITH_ID.sub("/*", route)) in self.script.odd:
            return answer(self.script.odd[odd])
        try:
            body = asked.json()
        except ValueError:
            return _error(500, "UnknownError", "Unexpected server error. Check server logs for details.")
        match [asked.method, *parts]:
            case ["GET", "global", "health"]:
                return answer({"healthy": True, "version": "7.7.7"})
            case [_, "pty", *_]:
                return self.ptys.answer(asked.method, parts[1:], asked.query.get("directory"), body)
            case ["GET", "global", "event"]:
                return self._events()
            case ["GET", "experimental", "tool", "ids"]:
                await self._boot(asked.query["directory"])
                return answer(list(self.script.tools))
            case ["GET", "config", "providers"]:
                models = {name: {"id": name} for name in self._models()}
                return answer({"providers": [{"id": "kilo", "models": models}], "default": {}})
            case ["GET", "session", "status"]:
                return answer({name: work.status for name, work in self._work.items() if work.status})
            case ["GET", "session"]:
                where = asked.query.get("directory")
                found = [s for s in self.home.sessions.values() if where in (None, s.directory)]
                return answer([s.to_json() for s in sorted(found, key=lambda s: -s.updated)])
            case ["POST", "session"]:
                return answer(self.home.session(asked.query["directory"], body.get("title", "")).to_json())
            case ["POST", "session", name, "abort"]:
                return self._abort(name)
            case ["GET", "session", name, "message"] if name in self.home.sessions:
                recent = self.home.sessions[name].messages[-int(asked.query.get("limit", "1000")) :]
                return answer([{"info": info, "parts": []} for info in recent])
            case ["POST", "session", name, "prompt_async"] if name in self.home.sessions:
                return self._prompt(self.home.sessions[name], body)
            case ["POST", "network", request, "reply"] if request in self._told:
                self._told.pop(request).set()
                return answer(True)
            case ["POST", "kilocode", "session", name, "resume"] if name in self.home.sessions:
                return self._resume(self.home.sessions[name], body)
            case ["POST", "api", "session", name, "model"]:
                if name not in self.home.sessions:
                    return answer({"_tag": "SessionNotFoundError", "message": f"Session not found: {name}"}, 404)
                chosen = body["model"]
                self.home.sessions[name].model = {"providerID": chosen["providerID"], "id": chosen["id"]}
                return answer(status=204)
            case [_, "session" | "kilocode", *_]:
                return _error(404, "NotFoundError", f"Session not found: {parts[-2]}")
            case _:
                return _error(404, "NotFoundError", route)

    def _models(self) -> tuple[str, ...]:
        configured = self._configured if self.script.knows_configured else ()
        return (*configured, *self.script.models)

    async def _boot(self, directory: str) -> None:
        """The first question about a directory boots its instance; others wait for it."""
        if (booted := self._booted.get(directory)) is not None:
            await booted.wait()
            return
        booted = self._booted[directory] = trio.Event()
        await trio.sleep(self.script.instance_seconds)
        booted.set()

    def _events(self) -> Frames:
        send, receive = trio.open_memory_channel[str](10_000)
        self._listeners.append(send)
        hello = {"payload": {"id": "evt_0", "type": "server.connected", "properties": {}}}
        send.send_nowait(f"data: {json.dumps(hello)}\n\n")
        self._nursery.start_soon(self._beat, send, name="heartbeat")
        return Frames(receive)

    async def _beat(self, listener: trio.MemorySendChannel[str]) -> None:
        beat = {"payload": {"id": "evt_0", "type": "server.heartbeat", "properties": {}}}
        while True:
            await trio.sleep(HEARTBEAT_SECONDS)
            if self.silent:
                continue
            try:
                listener.send_nowait(f"data: {json.dumps(beat)}\n\n")
            except (trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
                return

    def _prompt(self, session: Session, body: Any) -> Answer:
        if not isinstance(body, dict) or not isinstance(body.get("parts"), list):
            return _error(400, "BadRequest", 'Expected array\n  at ["parts"]')
        if not isinstance(body.get("model", {}), dict):
            return _error(400, "BadRequest", 'Expected object\n  at ["model"]')
        self.prompts.append({"session": session.id, **body})
        if self.script.loses >= len(self.prompts):
            self._ask(session, body)
        else:
            self._queue(session, body)
        return answer(status=204)

    def _resume(self, session: Session, body: dict[str, Any]) -> Answer:
        last = session.messages[-1] if session.messages else {}
        failed = (last.get("error") or {}).get("name") == "APIError"
        if last.get("id") != body.get("messageID") or last.get("role") != "assistant" or failed:
            message = "This session cannot be resumed in its current state."
            return answer({"_tag": "InvalidRequestError", "message": message}, 400)
        self._queue(session, {"resumes": last["id"]})
        return answer(True)

    def _abort(self, name: str) -> Answer:
        if (work := self._work.get(name)) is not None:
            work.waiting.clear()
            work.turn.cancel(reason="aborted")
        return answer(True)

    def _queue(self, session: Session, prompt: dict[str, Any]) -> None:
        if (work := self._work.get(session.id)) is not None:
            if "resumes" not in prompt:
                prompt["messageID"] = self._ask(session, prompt)["id"]
            work.waiting.append(prompt)
            self.emit("session.queue.changed", session, queued=[p.get("messageID") for p in work.waiting])
            return
        work = self._work[session.id] = _Work([prompt])
        self._nursery.start_soon(self._turns, session, work, name=f"turns of {session.id}")

    async def _turns(self, session: Session, work: _Work) -> None:
        """One turn after the other, until no prompt waits."""
        try:
            while work.waiting:
                with work.turn:
                    await self._turn(session, work.waiting.pop(0))
                work.turn = trio.CancelScope()
        finally:
            del self._work[session.id]

    async def _turn(self, session: Session, prompt: dict[str, Any]) -> None:
        script = self.script
        if script.never_opens_turn:
            await trio.sleep_forever()
        await trio.sleep(script.open_seconds)
        if not {"resumes", "messageID"} & prompt.keys():
            self._ask(session, prompt)
        model = _model(session, prompt)
        self.emit("session.turn.open", session)
        self._busy(session)
        name = model.get("modelID")
        if name is not None and name not in self._models():
            self._fail(session, None, _named("UnknownError", f"Model not found: kilo/{name}"))
            return
        reply = self.home.message(session, "assistant", model)
        self.emit("message.updated", session, info=reply)
        try:
            error = await self._answer(session, reply)
        except trio.Cancelled:
            if not self.killed:
                self._fail(session, reply, _named("MessageAbortedError", "Aborted"), reason="interrupted")
            raise
        if error is not None:
            self._fail(session, reply, error)
            return
        reply["time"] = {**reply["time"], "completed": next(self.home.clock)}
        self.emit("message.part.updated", session, part=_part(reply, "text", text="word word"))
        self.emit("message.part.updated", session, part=_part(reply, "step-finish", reason="stop"))
        self.emit("message.updated", session, info=reply | {"finish": "stop"})
        self._busy(session)
        self._close(session, "superseded" if self._work[session.id].waiting else "completed")
        self.emit("session.updated", session, info=session.to_json())
        self.emit("session.diff", session, diff=[])

    def _ask(self, session: Session, prompt: dict[str, Any]) -> dict[str, Any]:
        """Store a prompt as the user's message."""
        if session.messages and (session.messages[-1].get("error") or {}).get("name") == "APIError":
            self.emit("message.removed", session, messageID=session.messages.pop()["id"])
        user = self.home.message(session, "user", _model(session, prompt))
        self.emit("session.updated", session, info=session.to_json())
        self.emit("message.updated", session, info=user)
        text = "".join(part.get("text", "") for part in prompt["parts"])
        self.emit("message.part.updated", session, part=_part(user, "text", text=text))
        return user

    async def _answer(self, session: Session, reply: dict[str, Any]) -> dict[str, Any] | None:
        """The gateway's part of a turn: words, or an error."""
        script = self.script
        await trio.sleep(script.word_seconds)
        while self.script.offline:
            request, why = f"que_{next(self._ids)}", "Unable to connect"
            told = self._told[request] = trio.Event()
            self.emit("session.network.asked", session, id=request, message=why)
            self._say(session, {"type": "offline", "requestID": request, "message": why})
            await told.wait()
            self._busy(session)
        if script.status is not None and (script.status == 429 or script.status >= 500):
            for attempt, pause in enumerate(_RETRY_PAUSES, 1):
                retry = {"type": "retry", "attempt": attempt, "message": f"gateway said {script.status}"}
                self._say(session, {**retry, "next": next(self.home.clock)})
                await trio.sleep(pause)
        if script.status is not None:
            data = {"message": f"gateway said {script.status}", "statusCode": script.status}
            return {"name": "APIError", "data": {**data, "isRetryable": script.status >= 429}}
        self.emit("message.part.updated", session, part=_part(reply, "step-start"))
        part = _part(reply, "text", text="")
        self.emit("message.part.updated", session, part=part)
        for _ in range(2):
            self.emit("message.part.delta", session, partID=part["id"], field="text", delta="word ")
            await trio.sleep(max(0.0, script.turn_seconds - script.word_seconds) / 2)
        return None

    def _fail(
        self, session: Session, reply: dict[str, Any] | None, error: dict[str, Any], reason: str = "error"
    ) -> None:
        self.emit("session.error", session, error=error)
        self._say(session, None)
        self.emit("session.idle", session)
        if reply is not None:
            reply["error"] = error
            reply["time"] = {**reply["time"], "completed": next(self.home.clock)}
            self.emit("message.updated", session, info=reply)
        self._close(session, reason)

    def _close(self, session: Session, reason: str) -> None:
        self._say(session, None)
        self.emit("session.idle", session)
        self.emit("session.turn.close", session, reason=reason)

    def _busy(self, session: Session) -> None:
        self._say(session, {"type": "busy"})

    def _say(self, session: Session, status: dict[str, Any] | None) -> None:
        self._work[session.id].status = status
        self.emit("session.status", session, status=status or {"type": "idle"})


def _part(message: dict[str, Any], kind: str, **more: Any) -> dict[str, Any]:
    return {
        "id": f"prt_{message['id']}",
        "sessionID": message["sessionID"],
        "messageID": message["id"],
        "type": kind,
        **more,
    }


def _model(session: Session, prompt: dict[str, Any]) -> dict[str, str]:
    """The model of a prompt, or that of the last message: what was set for the session is not asked."""
    last = ({"providerID": "kilo", "modelID": m["modelID"]} for m in reversed(session.messages))
    return prompt.get("model") or next(last, {})


def _named(name: str, message: str) -> dict[str, Any]:
    return {"name": name, "data": {"message": message}}


def _error(status: int, name: str, message: str) -> Answer:
    return answer(_named(name, message), status)
