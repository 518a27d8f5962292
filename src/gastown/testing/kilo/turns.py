"""The turns of a fake kilo: prompts that wait, one turn after the other, and what each says of itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from typing import Any

import trio

from gastown.testing.kilo.database import Home, Message, Session
from gastown.testing.kilo.events import Events
from gastown.testing.kilo.script import Script

__all__ = ["Turns", "named_error"]

_USED = {"tokens": {"input": 1, "output": 3, "reasoning": 0, "cache": {"read": 2, "write": 0}}, "cost": 0.25}
"""Of each message that completes."""
_RETRY_PAUSES = (2, 4, 9, 19, 33)


@dataclass
class _Work:
    """What one server does for a session: the prompts that wait, the open turn, what it says of itself."""

    waiting: list[dict[str, Any]]
    turn: trio.CancelScope = field(default_factory=trio.CancelScope)
    status: dict[str, Any] | None = None


class Turns:
    """The turns of one server, in `nursery`. `script` says how they go, and may be replaced at any time.

    Those of a `killed` server stay open in the database.
    """

    def __init__(
        self, nursery: trio.Nursery, home: Home, events: Events, script: Script, models: tuple[str, ...]
    ) -> None:
        self._nursery = nursery
        self._home = home
        self._events = events
        self._configured = models
        self._work: dict[str, _Work] = {}
        self._asked: dict[str, trio.Event] = {}
        self._requests = count(1)
        self.script = script
        self.killed = False

    @property
    def models(self) -> tuple[str, ...]:
        """The names of the models that the server knows."""
        configured = self._configured if self.script.knows_configured else ()
        return (*configured, *self.script.models)

    @property
    def statuses(self) -> dict[str, dict[str, Any]]:
        """What each session at work says of itself."""
        return {name: work.status for name, work in self._work.items() if work.status}

    @property
    def offline_requests(self) -> list[str]:
        return list(self._asked)

    def reply(self, request: str) -> bool:
        """Say that the network is back; whether that request was open."""
        if (asked := self._asked.pop(request, None)) is None:
            return False
        asked.set()
        return True

    def interrupt(self) -> None:
        """What TERM does to open turns."""
        for name in self._work:
            self.abort(name)

    def abort(self, name: str) -> None:
        """End a session's open turn, and forget the prompts that wait."""
        if (work := self._work.get(name)) is not None:
            work.waiting.clear()
            work.turn.cancel(reason="aborted")

    def queue(self, session: Session, prompt: dict[str, Any]) -> None:
        """Give a prompt its turn, when those before it have had theirs."""
        if (work := self._work.get(session.id)) is not None:
            if "resumes" not in prompt:
                prompt["messageID"] = self.ask(session, prompt)["id"]
            work.waiting.append(prompt)
            self._events.emit("session.queue.changed", session, queued=[p.get("messageID") for p in work.waiting])
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
            self.ask(session, prompt)
        model = session.model_of(prompt)
        self._events.emit("session.turn.open", session)
        self._busy(session)
        name = model.get("modelID")
        if name is not None and name not in self.models:
            self._fail(session, None, named_error("UnknownError", f"Model not found: kilo/{name}"))
            return
        reply = self._home.message(session, "assistant", model)
        self._events.emit("message.updated", session, info=reply)
        try:
            error = await self._answer(session, reply)
        except trio.Cancelled:
            if not self.killed:
                self._fail(session, reply, named_error("MessageAbortedError", "Aborted"), reason="interrupted")
            raise
        if error is not None:
            self._fail(session, reply, error)
        else:
            self._complete(session, reply)

    def _complete(self, session: Session, reply: Message) -> None:
        self._home.completed(reply)
        reply |= _USED
        self._events.emit("message.part.updated", session, part=_part(reply, "text", text="word word"))
        self._events.emit("message.part.updated", session, part=_part(reply, "step-finish", reason="stop"))
        self._events.emit("message.updated", session, info=reply | {"finish": "stop"})
        self._busy(session)
        self._close(session, "superseded" if self._work[session.id].waiting else "completed")
        self._events.emit("session.updated", session, info=session.to_json())
        self._events.emit("session.diff", session, diff=[])

    def ask(self, session: Session, prompt: dict[str, Any]) -> Message:
        """Store a prompt as the user's message."""
        if session.ends_in_gateway_error():
            self._events.emit("message.removed", session, messageID=session.messages.pop()["id"])
        user = self._home.message(session, "user", session.model_of(prompt))
        self._events.emit("session.updated", session, info=session.to_json())
        self._events.emit("message.updated", session, info=user)
        text = "".join(part.get("text", "") for part in prompt["parts"])
        self._events.emit("message.part.updated", session, part=_part(user, "text", text=text))
        return user

    async def _answer(self, session: Session, reply: Message) -> dict[str, Any] | None:
        """The gateway's part of a turn: words, or an error."""
        script = self.script
        await trio.sleep(script.word_seconds)
        while self.script.offline:
            request, why = f"que_{next(self._requests)}", "Unable to connect"
            told = self._asked[request] = trio.Event()
            self._events.emit("session.network.asked", session, id=request, message=why)
            self._say(session, {"type": "offline", "requestID": request, "message": why})
            await told.wait()
            self._busy(session)
        if script.status is not None and (script.status == 429 or script.status >= 500):
            for attempt, pause in enumerate(_RETRY_PAUSES, 1):
                retry = {"type": "retry", "attempt": attempt, "message": f"gateway said {script.status}"}
                self._say(session, {**retry, "next": next(self._home.clock)})
                await trio.sleep(pause)
        if script.status is not None:
            data = {"message": f"gateway said {script.status}", "statusCode": script.status}
            return {"name": "APIError", "data": {**data, "isRetryable": script.status >= 429}}
        self._events.emit("message.part.updated", session, part=_part(reply, "step-start"))
        part = _part(reply, "text", text="")
        self._events.emit("message.part.updated", session, part=part)
        for _ in range(2):
            self._events.emit("message.part.delta", session, partID=part["id"], field="text", delta="word ")
            await trio.sleep(max(0.0, script.turn_seconds - script.word_seconds) / 2)
        return None

    def _fail(self, session: Session, reply: Message | None, error: dict[str, Any], reason: str = "error") -> None:
        self._events.emit("session.error", session, error=error)
        self._say(session, None)
        self._events.emit("session.idle", session)
        if reply is not None:
            reply["error"] = error
            self._home.completed(reply)
            self._events.emit("message.updated", session, info=reply)
        self._close(session, reason)

    def _close(self, session: Session, reason: str) -> None:
        self._say(session, None)
        self._events.emit("session.idle", session)
        self._events.emit("session.turn.close", session, reason=reason)

    def _busy(self, session: Session) -> None:
        self._say(session, {"type": "busy"})

    def _say(self, session: Session, status: dict[str, Any] | None) -> None:
        self._work[session.id].status = status
        self._events.emit("session.status", session, status=status or {"type": "idle"})


def _part(message: Message, kind: str, **more: Any) -> dict[str, Any]:
    return {
        "id": f"prt_{message['id']}",
        "sessionID": message["sessionID"],
        "messageID": message["id"],
        "type": kind,
        **more,
    }


def named_error(name: str, message: str) -> dict[str, Any]:
    return {"name": name, "data": {"message": message}}
