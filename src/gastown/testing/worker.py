"""A worker API that remembers what it was asked, and can be slow, deaf, wrong or away.

What it answers when all is well is checked against the hall's in tests/http/test_worker_contract.py.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import trio

from gastown.testing.asgi import Answer, Asked, Frames, answer, app_of
from gastown.testing.network import MemoryNetwork

__all__ = ["ROUTES", "Call", "DeafWorker", "FakeWorker", "SlowWorker", "token_until"]

ROUTES = (
    "GET /container-registry",
    "POST /container-registry",
    "GET /mayor-id",
    "GET /db-snapshot",
    "POST /db-snapshot",
    "DELETE /db-snapshot",
    "POST /eviction-context",
    "POST /container-eviction",
    "POST /container-events",
    "POST /refresh-container-token",
    "POST /agent-events",
    "POST /batch",
    "GET /pending-nudges",
    "POST /nudge-delivered",
    "POST /heartbeat",
    "POST /completed",
    "POST /waiting",
    "POST /container-ready",
    "POST /refresh-git-token",
    "POST /complete",
)


@dataclass(frozen=True)
class Call:
    """A request that the worker got, `at` a time on Trio's clock.

    `route` is the method and the last part of the path, as in `ROUTES`.
    """

    route: str
    path: str
    bearer: str
    headers: dict[str, str]
    body: Any
    at: float


def token_until(seconds: float, name: str = "container") -> str:
    """A JWT whose `exp` is `seconds` since 1970. Its signature is not checked here."""

    def part(value: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    return f"{part({'alg': 'none'})}.{part({'exp': seconds, 'sub': name})}.c2ln"


class FakeWorker:
    """The worker API of one town at `http://worker`.

    `registry`, `mayor` and `snapshots` are what it knows. Per route (see `ROUTES`): `delays` are seconds before
    the answer, inf for never; `statuses` are answered instead; `garbage` is answered with something that is
    no JSON, and `odd` holds whole answers in its place. A bearer in `expired` gets 401 everywhere but at the
    refresh, which gives out `fresh-1`, `fresh-2`… `next_token` is given out instead, and `git_token` for git.
    `refuses` are types of events that it answers with 400, `batches` says whether it takes arrays of them,
    `nudges` wait for agents, and `drain_nonce` comes with the answer to a heartbeat.
    """

    def __init__(self, network: MemoryNetwork, *, town_id: str = "oak", host: str = "worker") -> None:
        self._network = network
        self.host = host
        self.base = f"/api/towns/{town_id}"
        self.url = f"http://{host}"
        self.registry: list[Any] = []
        self.mayor: dict[str, Any] = {"success": True, "agentId": None}
        self.snapshots: dict[tuple[str, str], bytes] = {}
        self.calls: list[Call] = []
        self.answered: list[Call] = []
        self.delays: dict[str, float] = {}
        self.statuses: dict[str, int] = {}
        self.garbage: set[str] = set()
        self.odd: dict[str, Answer | Frames] = {}
        self.expired: set[str] = set()
        self.fresh_tokens: list[str] = []
        self.next_token: Any = None
        self.git_token: str | None = None
        self.refuses: set[str] = set()
        self.batches = False
        self.nudges: dict[str, list[dict[str, Any]]] = {}
        self.drain_nonce: str | None = None
        network.serve(app_of(self._handle), host)

    def down(self) -> None:
        """Be away: connections break, new ones are refused."""
        self._network.unplug(self.host)

    def up(self) -> None:
        """Be back."""
        self._network.plug(self.host)

    def asked(self, route: str) -> list[Call]:
        """The calls of a route, oldest first."""
        return [call for call in self.calls if call.route == route]

    @property
    def events(self) -> list[dict[str, Any]]:
        """The container's events that it took, oldest first."""
        return [call.body for call in self.answered if call.route == "POST /container-events"]

    def agent_events(self, agent_id: str | None = None) -> list[dict[str, Any]]:
        """The events of agents that it took, or those of one, in the order in which they came."""
        taken = [call.body for call in self.answered if call.route in ("POST /agent-events", "POST /batch")]
        flat = [event for body in taken for event in (body if isinstance(body, list) else [body])]
        return [event for event in flat if agent_id in (None, event["agent_id"])]

    def reports(self, route: str) -> list[dict[str, Any]]:
        """The bodies that it took at a route."""
        return [call.body for call in self.answered if call.route == route]

    @property
    def registries(self) -> list[list[dict[str, Any]]]:
        """Every registry that was stored, oldest first."""
        return [call.body for call in self.answered if call.route == "POST /container-registry"]

    async def _handle(self, asked: Asked) -> Answer | Frames:
        route = f"{asked.method} /{asked.path.rpartition('/')[2]}"
        bearer = asked.headers.get("authorization", "").removeprefix("Bearer ")
        binary = asked.headers.get("content-type") == "application/octet-stream"
        body = asked.body if binary else asked.json()
        call = Call(route, asked.path, bearer, dict(asked.headers), body, asked.at)
        self.calls.append(call)
        await trio.sleep(self.delays.get(route, 0))
        if route not in ROUTES or not asked.path.startswith(self.base):
            return answer({"success": False, "error": f"no route {route}"}, 404)
        if status := self.statuses.get(route):
            return answer({"success": False, "error": "as told"}, status)
        if bearer in self.expired and route != "POST /refresh-container-token":
            return answer({"success": False, "error": "expired"}, 401)
        if route in self.odd:
            return self.odd[route]
        if route in self.garbage:
            return Answer(200, b"<html>not what you think</html>", "text/html")
        reply = self._answer(call)
        if reply.status < 400:
            self.answered.append(call)
        return reply

    def _answer(self, call: Call) -> Answer:  # noqa: PLR0911 - a route each
        match call.route:
            case "GET /mayor-id":
                return answer(self.mayor)
            case "GET /container-registry" | "POST /container-registry":
                return self._about_registry(call)
            case "GET /db-snapshot" | "POST /db-snapshot" | "DELETE /db-snapshot":
                return self._about_snapshot(call)
            case "POST /agent-events" | "POST /batch":
                return self._take_events(call)
            case "GET /pending-nudges" | "POST /nudge-delivered":
                return self._about_nudges(call)
            case "POST /heartbeat":
                return answer({"success": True, "data": {"drainNonce": self.drain_nonce}})
            case "POST /refresh-container-token":
                return answer({"success": True, "data": {"token": self._fresh_token()}})
            case "POST /refresh-git-token" if self.git_token is None:
                return answer({"success": False, "error": "no git token"}, 404)
            case "POST /refresh-git-token":
                return answer({"success": True, "data": {"token": self.git_token}})
            case _:
                return answer({"success": True})

    def _about_registry(self, call: Call) -> Answer:
        if call.route.startswith("GET"):
            return answer({"success": True, "data": self.registry})
        self.registry = call.body
        return answer({"success": True})

    def _about_snapshot(self, call: Call) -> Answer:
        agent = _agent_in(call.path)
        match call.route.partition(" ")[0]:
            case "POST":
                self.snapshots[agent] = call.body
            case "DELETE":
                self.snapshots.pop(agent, None)
            case _ if agent in self.snapshots:
                return Answer(200, self.snapshots[agent], "application/octet-stream")
            case _:
                return answer({"success": False, "error": "no snapshot"}, 404)
        return answer({"success": True})

    def _take_events(self, call: Call) -> Answer:
        sent = call.body if isinstance(call.body, list) else [call.body]
        if self.refuses & {event["event_type"] for event in sent}:
            return answer({"success": False, "error": "as told"}, 400)
        headers = {"x-gastown-accepts": "agent-events-batch"} if self.batches else {}
        return answer({"success": True}, headers=headers)

    def _about_nudges(self, call: Call) -> Answer:
        _, agent = _agent_in(call.path)
        waiting = self.nudges.get(agent, [])
        if call.route.startswith("GET"):
            return answer({"success": True, "data": waiting})
        done = call.body["nudge_id"]
        self.nudges[agent] = [nudge for nudge in waiting if nudge["nudge_id"] != done]
        return answer({"success": True})

    def _fresh_token(self) -> Any:
        if self.next_token is not None:
            return self.next_token
        self.fresh_tokens.append(f"fresh-{len(self.fresh_tokens) + 1}")
        return self.fresh_tokens[-1]


def _agent_in(path: str) -> tuple[str, str]:
    """Rig and agent of `…/rigs/{rig}/agents/{agent}/db-snapshot`."""
    parts = path.split("/")
    return parts[-4], parts[-2]


class SlowWorker(FakeWorker):
    """Takes `seconds` for each of `routes`, or for every one."""

    def __init__(
        self, network: MemoryNetwork, seconds: float, routes: Iterable[str] = ROUTES, **options: Any
    ) -> None:
        super().__init__(network, **options)
        self.delays = dict.fromkeys(routes, seconds)


class DeafWorker(SlowWorker):
    """Accepts every call and never answers."""

    def __init__(self, network: MemoryNetwork, routes: Iterable[str] = ROUTES, **options: Any) -> None:
        super().__init__(network, math.inf, routes, **options)
