"""The routes of a fake kilo."""

from __future__ import annotations

import re
from typing import Any

import trio

from gastown.testing.asgi import Answer, Asked, Frames, answer, app_of, locked
from gastown.testing.kilo.database import Home, Session
from gastown.testing.kilo.events import Events
from gastown.testing.kilo.ptys import FakePtys
from gastown.testing.kilo.script import Script
from gastown.testing.kilo.turns import Turns, named_error

__all__ = ["FakeKilo"]

_UNEXPECTED = "Unexpected server error"
_WITH_ID = re.compile(r"/(?:ses|pty|que|per|sug)_[^/]+")


class FakeKilo:
    """One server. Turns run in `nursery`; `app` is what is served. `asked` and `prompts` are what it was asked, by
    callers that knew its password.

    `asks` are what waits for a person's answer, by kind: `wait_for` adds to them.

    A killed server (`killed`) leaves its open turns in the database as they are; a `silent` one publishes
    nothing, not even heartbeats, on connections that stay open.
    """

    def __init__(
        self, nursery: trio.Nursery, home: Home, script: Script, models: tuple[str, ...], password: str
    ) -> None:
        self._booted: dict[str, trio.Event] = {}
        self._events = Events(nursery)
        self._turns = Turns(nursery, home, self._events, script, models)
        self.home = home
        self.asks: dict[str, list[dict[str, Any]]] = {"permission": [], "question": [], "suggestion": []}
        self.asked: list[Asked] = []
        self.prompts: list[dict[str, Any]] = []
        self.ptys = FakePtys()
        self.app = locked(self.ptys.beside(app_of(self._handle)), "kilo", password)
        self.emit = self._events.emit
        self.publish = self._events.publish
        self.end_streams = self._events.end
        self.interrupt = self._turns.interrupt

    @property
    def script(self) -> Script:
        """How it behaves from now on."""
        return self._turns.script

    @script.setter
    def script(self, script: Script) -> None:
        self._turns.script = script

    @property
    def offline_requests(self) -> list[str]:
        """The ids of the open `session.network.asked`: what a reply must name."""
        return self._turns.offline_requests

    @property
    def killed(self) -> bool:
        return self._turns.killed

    @killed.setter
    def killed(self, killed: bool) -> None:
        self._turns.killed = killed

    @property
    def silent(self) -> bool:
        return self._events.silent

    @silent.setter
    def silent(self, silent: bool) -> None:
        self._events.silent = silent

    @property
    def listeners(self) -> int:
        """How many event streams are open."""
        return len(self._events)

    async def _handle(self, asked: Asked) -> Answer | Frames:
        """What the script says of the route, else what kilo says."""
        self.asked.append(asked)
        route = f"{asked.method} {asked.path}"
        if route in self.script.hangs:
            await trio.sleep_forever()
        if route in self.script.broken:
            return _error(500, "UnknownError", _UNEXPECTED)
        if (odd := _WITH_ID.sub("/*", route)) in self.script.odd:
            return answer(self.script.odd[odd])
        try:
            body = asked.json()
        except ValueError:
            return _error(500, "UnknownError", f"{_UNEXPECTED}. Check server logs for details.")
        match asked.path.strip("/").split("/"):
            case ["pty", *rest]:
                return self.ptys.answer(asked.method, rest, asked.query.get("directory"), body)
            case ["session" | "kilocode" | "api", *_]:
                return self._about_sessions(asked, body)
            case _:
                return await self._about_the_server(asked)

    async def _about_the_server(self, asked: Asked) -> Answer | Frames:  # noqa: PLR0911 - a route each
        match [asked.method, *asked.path.strip("/").split("/")]:
            case ["GET", "global", "health"]:
                return answer({"healthy": True, "version": "7.7.7"})
            case ["GET", "global", "event"]:
                return self._events.listen()
            case ["GET", "experimental", "tool", "ids"]:
                await self._boot(asked.query["directory"])
                return answer(list(self.script.tools))
            case ["GET", "config", "providers"]:
                models = {name: {"id": name} for name in self._turns.models}
                return answer({"providers": [{"id": "kilo", "models": models}], "default": {}})
            case ["GET", "permission" | "question" | "suggestion" as kind]:
                return answer(self.asks[kind])
            case ["POST", "permission" | "question" | "suggestion" as kind, request, _]:
                return self._reply(kind, request)
            case ["POST", "network", request, "reply"] if self._turns.reply(request):
                return answer(True)
            case _:
                return _error(404, "NotFoundError", f"{asked.method} {asked.path}")

    def wait_for(self, kind: str, session: Session, number: int, **more: Any) -> str:
        """Ask a person for something, as a tool does; returns the id of what was asked."""
        ask = {"id": f"{kind[:3]}_{number}", "sessionID": session.id, **more}
        self.asks[kind].append(ask)
        self.emit("suggestion.shown" if kind == "suggestion" else f"{kind}.asked", session, **ask)
        return str(ask["id"])

    def _reply(self, kind: str, request: str) -> Answer:
        """What waited is answered, and waits no more; only its end is of interest here."""
        for ask in [ask for ask in self.asks[kind] if ask["id"] == request]:
            self.asks[kind].remove(ask)
            ended = {"permission": "replied", "question": "rejected", "suggestion": "dismissed"}[kind]
            self.emit(f"{kind}.{ended}", self.home.sessions[ask["sessionID"]], requestID=request)
            return answer(True)
        return _error(404, "NotFoundError", f"{kind} request not found: {request}")

    def _about_sessions(self, asked: Asked, body: Any) -> Answer:  # noqa: PLR0911 - a route each
        match [asked.method, *asked.path.strip("/").split("/")]:
            case ["GET", "session", "status"]:
                return answer(self._turns.statuses)
            case ["GET", "session"]:
                where = asked.query.get("directory")
                found = [s for s in self.home.sessions.values() if where in (None, s.directory)]
                return answer([s.to_json() for s in sorted(found, key=lambda s: -s.updated)])
            case ["POST", "session"]:
                return answer(self.home.session(asked.query["directory"], body.get("title", "")).to_json())
            case ["POST", "session", name, "abort"]:
                self._turns.abort(name)
                return answer(True)
            case ["POST", "api", "session", name, "model"]:
                return self._choose_model(name, body)
            case [_, "session", name, _] | ["POST", "kilocode", "session", name, "resume"] if (
                session := self.home.sessions.get(name)
            ) is not None:
                return self._about_session(asked, session, body)
            case [_, "api", *_]:
                return _error(404, "NotFoundError", f"{asked.method} {asked.path}")
            case [_, *_, name, _]:
                return _error(404, "NotFoundError", f"Session not found: {name}")
            case _:
                return _error(404, "NotFoundError", f"{asked.method} {asked.path}")

    def _about_session(self, asked: Asked, session: Session, body: Any) -> Answer:
        match asked.method, asked.path.rpartition("/")[2]:
            case "GET", "message":
                recent = session.messages[-int(asked.query.get("limit", "1000")) :]
                return answer([{"info": info, "parts": []} for info in recent])
            case "POST", "prompt_async":
                return self._prompt(session, body)
            case "POST", "resume":
                return self._resume(session, body)
            case _:
                return _error(404, "NotFoundError", f"Session not found: {session.id}")

    async def _boot(self, directory: str) -> None:
        """The first question about a directory boots its instance; others wait for it."""
        if (booted := self._booted.get(directory)) is not None:
            await booted.wait()
            return
        booted = self._booted[directory] = trio.Event()
        await trio.sleep(self.script.instance_seconds)
        booted.set()

    def _prompt(self, session: Session, body: Any) -> Answer:
        if not isinstance(body, dict) or not isinstance(body.get("parts"), list):
            return _error(400, "BadRequest", 'Expected array\n  at ["parts"]')
        if not isinstance(body.get("model", {}), dict):
            return _error(400, "BadRequest", 'Expected object\n  at ["model"]')
        self.prompts.append({"session": session.id, **body})
        if self.script.loses >= len(self.prompts):
            self._turns.ask(session, body)
        else:
            self._turns.queue(session, body)
        return answer(status=204)

    def _resume(self, session: Session, body: dict[str, Any]) -> Answer:
        last = session.messages[-1] if session.messages else {}
        named = last.get("id") == body.get("messageID") and last.get("role") == "assistant"
        if not named or session.ends_in_gateway_error():
            message = "This session cannot be resumed in its current state."
            return answer({"_tag": "InvalidRequestError", "message": message}, 400)
        self._turns.queue(session, {"resumes": last["id"]})
        return answer(True)

    def _choose_model(self, name: str, body: dict[str, Any]) -> Answer:
        if (session := self.home.sessions.get(name)) is None:
            return answer({"_tag": "SessionNotFoundError", "message": f"Session not found: {name}"}, 404)
        chosen = body["model"]
        session.model = {"providerID": chosen["providerID"], "id": chosen["id"]}
        return answer(status=204)


def _error(status: int, name: str, message: str) -> Answer:
    return answer(named_error(name, message), status)
