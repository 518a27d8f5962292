"""Any JSON from one agent's kilo server, on any route and as any event: at most that agent ends."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx2
import pytest
import trio
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from gastown.testing.clock import in_virtual_time, threads_in_place
from gastown.testing.kilo import FakeKilo, Script
from gastown.testing.launchers import FakeLauncher
from gastown.testing.network import MemoryNetwork
from gastown.testing.scrape import scrape
from gastown.testing.town import FakeTown, open_fake_town

ODD, GOOD = "odd-1", "pole-1"
SESSION = f"ses_{ODD}_1"
BUGS = ("request.crashed", "task.failed", "agent.crashed", "server.crashed", "heartbeat.not_built")

leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.floats(),
    st.sampled_from(["", "idle", "text", "running", "ses_1", "../../global/dispose", "\ud800", "x" * 600]),
    st.text(max_size=8),
)
anything = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4) | st.just("id"), inner, max_size=3)
    ),
    max_leaves=6,
)


def like(shape: Any) -> st.SearchStrategy[Any]:
    """`shape`, with something odd in a place of it: in one of its own, or in its stead."""
    if isinstance(shape, dict):
        whole = st.fixed_dictionaries({key: like(value) for key, value in shape.items()})
        return st.one_of(whole, whole, whole, anything)
    if isinstance(shape, list):
        return st.one_of(st.tuples(*map(like, shape)).map(list), anything)
    return st.one_of(st.just(shape), st.just(shape), st.just(shape), anything)


INFO = {"id": "msg_1", "role": "assistant", "error": {"name": "E", "data": {}}, "time": {"completed": 5}}
PART = {"id": "prt_1", "type": "tool", "tool": "bash", "text": "t", "state": {"status": "running"}}
STATUS = {"type": "retry", "attempt": 1, "next": 5, "message": "m", "requestID": "net_1"}
MODEL = {"id": "kilo", "models": {"test/large": {}}}
PTY = {"id": "pty_1", "status": "running", "args": ["a"], "pid": 5}
ROUTES: dict[str, Any] = {
    "GET /experimental/tool/ids": ["bash"],
    "POST /session": {"id": SESSION, "directory": "/x"},
    "GET /session": [{"id": SESSION, "directory": "/x", "parentID": "ses_0"}],
    "GET /session/status": {SESSION: STATUS},
    "GET /session/*/message": [{"info": INFO, "parts": [PART]}],
    "POST /session/*/prompt_async": None,
    "POST /session/*/abort": True,
    "GET /config/providers": {"providers": [MODEL]},
    "POST /api/session/*/model": None,
    "POST /kilocode/session/*/resume": True,
    "POST /network/*/reply": True,
    **{f"GET /{kind}": [{"id": f"{kind[:3]}_1", "metadata": {}}] for kind in ("permission", "question")},
    "POST /permission/*/reply": True,
    "GET /pty": [PTY],
    "POST /pty": PTY,
    "GET /pty/*": PTY,
    "PUT /pty/*": PTY,
    "DELETE /pty/*": True,
}
EVENTS: dict[str, dict[str, Any]] = {
    "session.turn.open": {},
    "session.turn.close": {"reason": "completed"},
    "session.status": {"status": STATUS},
    "session.error": {"error": {"name": "E", "data": {"message": "m", "statusCode": 400}}},
    "message.updated": {"info": INFO},
    "message.part.updated": {"part": PART},
    "permission.asked": {"id": "per_1"},
    "question.replied": {"requestID": "per_1"},
    "of.no.kilo": {"text": "t"},
}
answers = st.dictionaries(st.sampled_from(sorted(ROUTES)), st.none(), min_size=1, max_size=3).flatmap(
    lambda routes: st.fixed_dictionaries({route: like(ROUTES[route]) for route in routes})
)
frames = st.one_of(
    st.sampled_from(sorted(EVENTS)).flatmap(
        lambda kind: like({"payload": {"type": kind, "properties": {"sessionID": SESSION, **EVENTS[kind]}}})
    ),
    anything,
).map(json.dumps)


def in_a_town(work: Callable[[FakeTown], Awaitable[None]], script: Script) -> None:
    """Do something in a town with a good neighbour, under virtual time."""

    def launcher(network: MemoryNetwork) -> FakeLauncher:
        made = FakeLauncher(network)
        made.scripts[ODD] = script
        return made

    async def run(folder: Path) -> None:
        async with open_fake_town(folder, kilo=launcher, agent_idle_timeout_ms=3_600_000) as town:
            assert (await town.start(GOOD)).status_code == 201
            await work(town)
            await the_neighbour_goes_on(town)

    with TemporaryDirectory() as name, threads_in_place():
        in_virtual_time(partial(run, Path(name)))


async def the_neighbour_goes_on(town: FakeTown) -> None:
    """A turn of the neighbour runs to its end, and nothing of ours has met a bug."""
    before = len(await town.events(GOOD))
    assert (await town.client.post(f"/agents/{GOOD}/message", json={"prompt": "go on"})).status_code == 200
    await trio.sleep(30)
    kinds = [event["event"] for event in (await town.events(GOOD))[before:]]
    assert "session.turn.close" in kinds
    assert (await town.status(GOOD))["status"] == "running"
    assert [line for event in BUGS for line in town.logged(event)] == []
    assert (await scrape(town))("tasks_failed_total") == 0


async def every_operation(town: FakeTown) -> None:
    """Ask for everything that concerns the odd agent, and for what shows all agents."""
    agent = f"/agents/{ODD}"
    config = {"X-Town-Config": json.dumps({"kilocode_token": "t", "env_vars": {"SHIP": "two"}})}
    asked: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", f"{agent}/message", {"json": {"prompt": "more"}}),
        ("PATCH", f"{agent}/model", {"json": {"model": "test/large"}}),
        ("PATCH", f"{agent}/model", {"json": {"model": "test/other"}}),
        ("PATCH", f"{agent}/model", {"json": {"model": "test/large", "smallModel": "test/tiny"}}),
        ("PUT", f"{agent}/system-prompt", {"json": {"systemPrompt": "be"}}),
        ("POST", f"{agent}/pty", {}),
        ("GET", f"{agent}/pty", {}),
        ("GET", f"{agent}/pty/pty_1", {}),
        ("PUT", f"{agent}/pty/pty_1", {"json": {"size": {"rows": 5, "cols": 5}}}),
        ("DELETE", f"{agent}/pty/pty_1", {}),
        ("POST", "/refresh-token", {"json": {"token": "another-token"}}),
        ("POST", "/sync-config", {"headers": config}),
    ]
    for method, path, more in asked:
        well(await town.client.request(method, path, **more))
    await trio.sleep(35)  # three probes of the watchdog, one heartbeat
    await what_is_shown(town)
    assert (await town.client.post(f"{agent}/stop")).status_code in (200, 404)
    await what_is_shown(town)


async def what_is_shown(town: FakeTown) -> None:
    for path in (f"/agents/{ODD}/status", f"/agents/{ODD}/events", "/metrics", "/health"):
        answer = await town.client.get(path)
        assert answer.status_code in ({200, 404} if path.endswith("status") else {200}), answer.text
        if path != "/metrics":
            json.loads(answer.text, parse_constant=pytest.fail)


def well(answer: httpx2.Response) -> None:
    """An answer of the contract: what kilo did not do is a 502 with a sentence, and never a 500."""
    assert answer.status_code != 500, answer.text
    if answer.status_code >= 400:
        assert answer.json()["error"]


def runs_or_says_why(started: httpx2.Response) -> None:
    """The answer of a start: a failure names its phase."""
    if started.status_code != 201:
        assert started.status_code in (500, 504)  # 504: the start's time was up
        assert started.json()["phase"]


bounded = settings(
    max_examples=8,
    deadline=None,
    phases=(Phase.explicit, Phase.generate),  # shrinking would take minutes: each example is a whole town
    suppress_health_check=list(HealthCheck),
)


@bounded
@given(answers)
def test_any_answer_at_birth_costs_at_most_that_agent(odd: dict[str, Any]) -> None:
    """A server that answers oddly from its start on: the start fails in a phase, or the agent lives with it."""

    async def work(town: FakeTown) -> None:
        runs_or_says_why(await town.start(ODD))
        await every_operation(town)

    in_a_town(work, Script(turn_seconds=3, odd=odd))


@bounded
@given(answers, st.lists(frames, max_size=4))
def test_any_answer_and_any_event_later_cost_at_most_that_agent(odd: dict[str, Any], told: list[str]) -> None:
    """A server that becomes odd in the middle of a turn."""
    script = Script(turn_seconds=3)

    async def work(town: FakeTown) -> None:
        assert (await town.start(ODD)).status_code == 201
        script.odd = odd
        for frame in told:
            town.kilo.server(ODD).kilo.publish(frame)
            await trio.sleep(0.2)
        await what_is_shown(town)
        await every_operation(town)

    in_a_town(work, script)


MAYOR = {"role": "mayor", "rigId": "mayor-oak", "gitUrl": "", "branch": "", "defaultBranch": ""}


async def a_hard_life(town: FakeTown, script: Script, odd: dict[str, Any]) -> None:
    """A mayor loses its server in the middle of a turn, cannot reach its gateway, and is replaced as it works."""
    assert (await town.start(ODD, **MAYOR)).status_code == 201
    script.odd = odd
    town.kilo.kill(town.kilo.server(ODD))
    await trio.sleep(20)
    script.offline = True
    well(await town.client.post(f"/agents/{ODD}/message", json={"prompt": "more"}))
    await trio.sleep(20)
    runs_or_says_why(await town.start(ODD, **MAYOR, prompt="Something else"))
    script.offline = False
    await every_operation(town)


@bounded
@given(answers)
def test_any_answer_to_a_mayor_that_comes_back_costs_at_most_that_agent(odd: dict[str, Any]) -> None:
    """Its server has died, and the next one answers oddly."""
    script = Script(turn_seconds=3)
    in_a_town(lambda town: a_hard_life(town, script, odd), script)


def test_the_operations_ask_on_every_route_that_may_answer_oddly() -> None:
    """Else a route would be listed above and never be asked on."""
    script = Script(turn_seconds=3)
    asked: set[str] = set()

    async def work(town: FakeTown) -> None:
        kept = FakeKilo.__init__
        made: list[FakeKilo] = []

        def noted(kilo: FakeKilo, *args: Any) -> None:
            kept(kilo, *args)
            made.append(kilo)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(FakeKilo, "__init__", noted)
            await a_hard_life(town, script, {})
            assert (await town.start(ODD)).status_code == 201
            kilo = town.kilo.server(ODD).kilo
            kilo.wait_for("permission", next(iter(kilo.home.sessions.values())), 1)
            kilo.end_streams()  # what was missed is asked for
            await trio.sleep(1)
        ids = re.compile(r"/(?:ses|pty|que|per)_[^/]+")
        asked.update(ids.sub("/*", f"{one.method} {one.path}") for kilo in made for one in kilo.asked)

    in_a_town(work, script)
    assert set(ROUTES) - asked == set()


DEEP = "[" * 300 + "]" * 300


def event(kind: str, properties: str) -> str:
    return f'{{"payload": {{"type": "{kind}", "properties": {{"sessionID": "{SESSION}", {properties}}}}}}}'


UNREADABLE = (
    event("session.status", '"status": {"type": "retry", "attempt": "many"}'),
    event("session.status", '"status": "busy"'),
    event("message.part.updated", '"part": [1]'),
    event("session.diff", '"text": "\\ud800"'),
    event("session.diff", '"number": NaN'),
    event("session.diff", '"number": 1e999'),
    event("session.diff", f'"number": {"9" * 400}.0'),
    event("session.diff", f'"deep": {DEEP}'),
    "[" * 100_000,
    "nothing",
)


def test_a_frame_that_no_kilo_sends_is_dropped_and_counted() -> None:
    """None is kept, each is counted, one line tells of many, and the good frames between them are heard."""

    async def work(town: FakeTown) -> None:
        await town.start(ODD)
        before, kept = await scrape(town), len(await town.events(ODD))
        for frame in UNREADABLE:
            town.kilo.server(ODD).kilo.publish(frame)
            town.kilo.server(ODD).kilo.publish(event("of.no.kilo", '"good": 1'))
        await trio.sleep(0.05)
        await what_is_shown(town)
        told = [seen["data"] for seen in (await town.events(ODD))[kept:] if seen["event"] == "of.no.kilo"]
        assert told == [{"sessionID": SESSION, "good": 1}] * len(UNREADABLE)
        after = await scrape(town)
        name = "server_frames_dropped_total"
        assert after(name) - before(name) == len(UNREADABLE)
        assert len(town.logged("kilo.frame_unreadable")) == 1
        assert (await town.status(ODD))["status"] == "running"

    in_a_town(work, Script(turn_seconds=3))
