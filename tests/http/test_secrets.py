"""No answer and no log line ever carries a credential, wherever it came from.

The log of these tests is given no list of live secrets: what does not look like a token must not get there at all.
"""

from __future__ import annotations

import json
import traceback
from base64 import b64encode
from collections import deque
from functools import partial
from types import MappingProxyType
from typing import Any

import pytest
import trio

from gastown.assembly import live_secrets
from gastown.concurrency.processes import Exit
from gastown.contract.agents import AgentStatus
from gastown.contract.errors import AgentNotRunning
from gastown.control.app import ROUTES
from gastown.control.route_table import Route
from gastown.testing.kilo import Script
from gastown.testing.launchers import CrashingKilo, FailingPromptKilo, FakeLauncher, Fate, Spawn
from gastown.testing.network import MemoryNetwork
from gastown.testing.town import FakeTown, start_request
from gastown.testing.worker import FakeWorker

pytestmark = pytest.mark.virtual_time

NAMES = (
    "container session kilo-of-the-container kilo-of-the-header github-of-the-header gitlab-of-the-header "
    "pat-of-the-header custom-of-the-header kilo-of-the-request custom-of-the-request kilo-of-the-entry "
    "custom-of-the-entry kilo-of-the-context github-of-the-context pat-of-the-context custom-of-the-context "
    "refreshed password-in-an-address key-of-a-callback shown-as-a-bearer shown-in-a-query ticket-shown"
)
CANARY = {name: f"canary-{number:02}-{name}" for number, name in enumerate(NAMES.split())}
SETTINGS = {
    "gastown_container_token": CANARY["container"],
    "gastown_session_token": CANARY["session"],
    "kilocode_token": CANARY["kilo-of-the-container"],
}
HEADER = {
    "X-Town-Config": json.dumps(
        {
            "kilocode_token": CANARY["kilo-of-the-header"],
            "git_auth": {
                "github_token": CANARY["github-of-the-header"],
                "gitlab_token": CANARY["gitlab-of-the-header"],
                "gitlab_instance_url": f"https://user:{CANARY['password-in-an-address']}@gl.test",
            },
            "github_cli_pat": CANARY["pat-of-the-header"],
            "env_vars": {"CUSTOM": CANARY["custom-of-the-header"]},
        }
    )
}
CALLBACK = f"https://caller.test/done?key={CANARY['key-of-a-callback']}"
SHOWN = {**HEADER, "Authorization": f"Bearer {CANARY['shown-as-a-bearer']}"}
"""What a caller may show at any route, whether it is wanted there or not."""
QUERY = f"?ticket={CANARY['ticket-shown']}&token={CANARY['shown-in-a-query']}&after={CANARY['shown-in-a-query']}"
VARIABLES = {"KILOCODE_TOKEN": CANARY["kilo-of-the-request"], "CUSTOM": CANARY["custom-of-the-request"]}
ADDRESS = f"https://user:{CANARY['password-in-an-address']}@git.test/r.git"


def plant(town: FakeTown) -> None:
    """Put canaries where the worker keeps its secrets."""
    town.mayor_known(
        kilocodeToken=CANARY["kilo-of-the-context"],
        githubToken=CANARY["github-of-the-context"],
        githubCliPat=CANARY["pat-of-the-context"],
        envVars={"CUSTOM": CANARY["custom-of-the-context"]},
    )
    stored = {"KILOCODE_TOKEN": CANARY["kilo-of-the-entry"], "CUSTOM": CANARY["custom-of-the-entry"]}
    town.worker.registry = [
        town.entry("pole-1", envVars=VARIABLES, env=stored, gitUrl=ADDRESS),
        {"agentId": "pole-2", "request": {"envVars": VARIABLES}, "workdir": "/w", "env": stored},
    ]


def with_secrets(town: FakeTown, agent_id: str, **changes: Any) -> Any:
    return town.start(agent_id, envVars=VARIABLES, gitUrl=ADDRESS, headers=HEADER, **changes)


async def everything_said(town: FakeTown, *texts: str) -> str:
    """What all routes that tell something say about every agent, with `texts`, and the log."""
    agents = (f"/agents/{name}" for name in ("mayor-1", "pole-1", "pole-2", "pole-3"))
    paths = ["/health", "/openapi.json", *(f"{agent}/{what}" for agent in agents for what in ("status", "events"))]
    said = [(await town.client.get(path)).text for path in paths]
    return "".join((*texts, *said, town.log.getvalue()))


def found(text: str) -> list[str]:
    return [name for name, canary in CANARY.items() if canary in text]


async def test_a_town_that_goes_well_tells_none(town_on_fakes) -> None:
    async with town_on_fakes(**SETTINGS) as town:
        plant(town)
        await town.hydrated()
        answers = [
            await with_secrets(town, "mayor-1"),
            await with_secrets(town, "pole-3"),
            await town.client.post("/refresh-token", json={"token": CANARY["refreshed"]}, headers=HEADER),
            await town.client.patch(
                "/agents/pole-3/model", json={"model": "test/large", "smallModel": "x"}, headers=HEADER
            ),
            await town.client.post("/agents/pole-3/message", json={"prompt": "x"}, headers=HEADER),
            await town.client.post("/agents/pole-3/stop", json={}, headers=HEADER),
        ]
        assert [answer.status_code for answer in answers] == [201, 201, 200, 200, 200, 200]
        await trio.sleep(30)
        assert found(await everything_said(town, *(answer.text for answer in answers))) == []


async def test_the_password_of_a_server_is_told_to_nobody_and_stands_in_no_address(town_on_fakes) -> None:
    async with town_on_fakes(**SETTINGS) as town:
        answers = [
            await with_secrets(town, "mayor-1"),
            await town.client.post("/agents/mayor-1/pty"),
            await town.client.get("/agents/mayor-1/pty"),
        ]
        assert [answer.status_code for answer in answers] == [201, 200, 200]
        server = town.kilo.server("mayor-1")
        said = await everything_said(town, *(answer.text for answer in answers))
        asked = [(one.path, sorted(one.query.items())) for one in server.kilo.asked]
        password = server.endpoint.password.reveal()
        for secret in (password, b64encode(f"kilo:{password}".encode()).decode()):
            assert secret not in said + repr((server.spec.argv, asked, server.endpoint))
        assert server.endpoint.password.reveal() not in json.dumps(dict(server.spec.env))
        # But the log knows what to look for, and the terminal has what it needs.
        here = town.opened.town
        assert server.endpoint.password in live_secrets(town.settings, here.roster, here.services)
        [terminal] = server.kilo.ptys.all.values()
        assert terminal.body["env"] == {"GASTOWN_TERMINAL_PASSWORD": server.endpoint.password.reveal()}


async def test_the_children_did_get_them(town_on_fakes) -> None:
    """So that the other tests look for something that is there."""
    async with town_on_fakes(**SETTINGS) as town:
        plant(town)
        await town.hydrated()
        await with_secrets(town, "pole-3")
        got = "".join(value for spawn in town.kilo.spawns for value in spawn.spec.env.values())
        assert set(found(got)) >= {
            "container",
            "session",
            "kilo-of-the-context",
            "github-of-the-context",
            "custom-of-the-context",
            "kilo-of-the-request",
            "github-of-the-header",
            "pat-of-the-header",
            "custom-of-the-header",
        }


def its_environment(spawn: Spawn) -> tuple[str, ...]:
    """What a program that cannot go on may print of itself."""
    return tuple(f"error: {value} is no good for {name}" for name, value in spawn.spec.env.items() if found(value))


def crashing(network: MemoryNetwork) -> FakeLauncher:
    return FakeLauncher(network, fate=lambda spawn: Fate(1.0, Exit(1), its_environment(spawn)))


def dying(network: MemoryNetwork) -> FakeLauncher:
    return FakeLauncher(network, fate=lambda spawn: Fate(stderr=its_environment(spawn), dies_after=20))


FAILURES = {
    "the server crashes": CrashingKilo,
    "the server crashes and prints its environment": crashing,
    "the gateway refuses": partial(FailingPromptKilo, status=401),
    "the server never comes up": lambda network: FakeLauncher(network, 100),
    "a route fails": lambda network: FakeLauncher(network, script=Script(broken=frozenset({"POST /session"}))),
    "the turn never opens": lambda network: FakeLauncher(network, script=Script(never_opens_turn=True)),
}


@pytest.mark.parametrize("failure", FAILURES)
async def test_a_start_that_fails_tells_none(town_on_fakes, failure: str) -> None:
    async with town_on_fakes(kilo=FAILURES[failure], **SETTINGS) as town:
        plant(town)
        await town.hydrated()
        answer = await with_secrets(town, "pole-3")
        assert answer.status_code in (500, 504)
        assert found(await everything_said(town, answer.text)) == []


@pytest.mark.parametrize(
    "route", ["GET /container-registry", "GET /mayor-id", "GET /db-snapshot", "POST /container-registry"]
)
@pytest.mark.parametrize("fault", ["status", "garbage"])
async def test_a_worker_that_fails_makes_nobody_tell_one(town_on_fakes, route: str, fault: str) -> None:
    async with town_on_fakes(**SETTINGS) as town:
        plant(town)
        if fault == "status":
            town.worker.statuses[route] = 500
        else:
            town.worker.garbage.add(route)
        await town.hydrated()
        await trio.sleep(30)
        assert found(await everything_said(town)) == []


async def test_an_unequal_server_is_told_by_names_only(town_on_fakes) -> None:
    async with town_on_fakes(**SETTINGS) as town:
        plant(town)
        await town.hydrated()
        await with_secrets(town, "mayor-1", model="test/another")
        (line,) = town.logged("server.unequal")
        assert "env.KILOCODE_TOKEN" in line["differences"]
        assert found(town.log.getvalue()) == []


async def test_a_request_that_is_wrong_is_not_quoted(town_on_fakes) -> None:
    async with town_on_fakes(**SETTINGS) as town:
        wrong = start_request(
            "pole-1", envVars=VARIABLES | {"": CANARY["custom-of-the-request"]}, gitUrl=[ADDRESS]
        )
        answers = [
            await town.client.post("/agents/start", json=wrong, headers=HEADER),
            await town.client.post("/refresh-token", json={"token": [CANARY["refreshed"]]}),
            await town.client.post("/refresh-token", json={"token": f"{CANARY['refreshed']} with a space"}),
            await town.client.post("/refresh-token", content=f'{{"token": "{CANARY["refreshed"]}"'.encode()),
            await town.client.post(
                "/sync-config",
                headers={"X-Town-Config": f'{{"kilocode_token": ["{CANARY["kilo-of-the-header"]}"]}}'},
            ),
            await town.client.post("/sync-config", headers={"X-Town-Config": CANARY["kilo-of-the-header"]}),
        ]
        assert [answer.status_code for answer in answers] == [400, 400, 400, 400, 200, 200]
        assert found(await everything_said(town, *(answer.text for answer in answers))) == []


async def test_a_refresh_that_fails_tells_none(town_on_fakes) -> None:
    async with town_on_fakes(**SETTINGS) as town:
        await with_secrets(town, "pole-3")
        town.kilo.fate = lambda _: Fate(float("inf"))
        answer = await town.client.post("/refresh-token", json={"token": CANARY["refreshed"]}, headers=HEADER)
        assert answer.json()["agentsFailed"] == 1
        assert found(await everything_said(town, answer.text)) == []


async def test_a_crash_of_ours_tells_none(town_on_fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    async with town_on_fakes(**SETTINGS) as town:

        def crash(*_: Any, **__: Any) -> None:
            raise RuntimeError("a bug of ours")

        monkeypatch.setattr(town.opened.town.roster, "begin", crash)
        answer = await with_secrets(town, "pole-3")
        assert (answer.status_code, answer.json()) == (500, {"error": "Internal error; the log has the details"})
        assert "a bug of ours" in town.log.getvalue()
        assert found(await everything_said(town, answer.text)) == []


BODIES: dict[str, Any] = {
    "POST /agents/start": lambda: start_request(
        "pole-9", envVars=VARIABLES, gitUrl=ADDRESS, completionCallbackUrl=CALLBACK, branch="work-9"
    ),
    "POST /refresh-token": lambda: {"token": CANARY["refreshed"]},
    "POST /agents/<agent_id>/message": lambda: {"prompt": "x"},
    "PATCH /agents/<agent_id>/model": lambda: {"model": "test/large"},
    "PUT /agents/<agent_id>/system-prompt": lambda: {"systemPrompt": "x"},
    "POST /agents/<agent_id>/nudge-delivered": lambda: {"nudge_id": "n"},
    "PUT /agents/<agent_id>/pty/<pty_id>": lambda: {"size": {"rows": 2, "cols": 2}},
    "POST /dashboard-context": lambda: {"context": "x"},
    "POST /repos/setup": lambda: {
        "rigId": "rig-1",
        "gitUrl": ADDRESS,
        "defaultBranch": "main",
        "envVars": {"GIT_TOKEN": CANARY["custom-of-the-request"]},
    },
    "POST /git/merge": lambda: {
        **dict.fromkeys(("entryId", "beadId", "agentId"), "one"),
        "townId": "oak",
        "rigId": "rig-1",
        "branch": "b",
        "targetBranch": "main",
        "gitUrl": ADDRESS,
        "callbackUrl": CALLBACK,
        "envVars": {"GIT_TOKEN": CANARY["custom-of-the-request"]},
    },
}
"""What each route is given; the others take no body."""

STATES = {
    "a town that goes well": (FakeLauncher, None),
    "servers that crash and print their environment": (crashing, None),
    "servers that die at work and print their environment": (dying, None),
    "a worker that is away": (FakeLauncher, "down"),
    "a worker that answers nonsense": (FakeLauncher, "garbage"),
    "a worker that refuses": (FakeLauncher, "statuses"),
}


def all_bodies(route: Route) -> list[bytes | None]:
    """A good one, if it takes one, and bad ones that hold what must not be quoted."""
    make = BODIES.get(f"{route.method} {route.path}")
    everything = json.dumps({"token": [CANARY["refreshed"]], "envVars": list(CANARY.values()), "gitUrl": ADDRESS})
    bad = [everything.encode(), everything.encode()[:-3], CANARY["refreshed"].encode()]
    good = json.dumps(make()).encode() if make is not None else None
    return [good] if route.body is None else [good, *bad]


async def ask_everywhere(town: FakeTown) -> str:
    """Every route of the control server, with good and bad bodies, for agents that are there and that are not."""
    said = []
    for route in sorted(ROUTES, key=lambda route: (route.path != "/agents/start", route.path.endswith("/stop"))):
        for agent_id in ("pole-3", "pole-9", "nobody"):
            path = route.path.replace("<agent_id>", agent_id).replace("<pty_id>", "pty_1")
            for body in all_bodies(route):
                with trio.move_on_after(100):
                    answer = await town.client.request(route.method, path + QUERY, content=body, headers=SHOWN)
                    said.append(answer.text + str(answer.headers))
            if "<agent_id>" not in route.path:
                break
    for path in ("/openapi.json", "/nowhere", "/agents/start"):
        answer = await town.client.get(path + QUERY, headers=SHOWN)
        said.append(answer.text + str(answer.headers))
    return "".join(said)


def trouble(worker: FakeWorker, how: str | None) -> None:
    routes = ("GET /container-registry", "GET /mayor-id", "GET /db-snapshot", "GET /pending-nudges")
    if how == "down":
        worker.down()
    elif how == "garbage":
        worker.garbage |= set(routes)
    elif how == "statuses":
        worker.statuses |= dict.fromkeys((*routes, "POST /refresh-container-token"), 401)


def reprs_of(*roots: object) -> str:
    """The reprs of whatever of ours can be reached, and of every exception with all that it came from."""
    seen: set[int] = set()
    waiting, said = list(roots), []
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, BaseException):
            said.append("".join(traceback.format_exception(thing)))
        if isinstance(thing, dict | MappingProxyType):
            waiting.extend(thing.values())
        elif isinstance(thing, list | tuple | set | frozenset | deque):
            waiting.extend(thing)
        elif type(thing).__module__.startswith("gastown.") and not isinstance(thing, type):
            said.append(repr(thing))
            names = (name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ()))
            waiting.extend(getattr(thing, name, None) for name in names)
            waiting.extend(getattr(thing, "__dict__", {}).values())
    assert len(said) > 20
    return "".join(said)


@pytest.mark.parametrize("state", STATES)
async def test_no_route_and_no_repr_tells_one_whatever_the_town_is_in(town_on_fakes, state: str) -> None:
    kilo, worker = STATES[state]
    async with town_on_fakes(kilo=kilo, **SETTINGS) as town:
        plant(town)
        trouble(town.worker, worker)
        with trio.move_on_after(200):
            await town.hydrated()
        said = await ask_everywhere(town)
        await trio.sleep(120)
        assert len(town.logged()) > 20
        assert found(await everything_said(town, said, reprs_of(town.opened, town.settings))) == []
        assert "gtb." not in town.log.getvalue() + said + reprs_of(town.opened)


async def test_the_town_knows_every_secret_that_it_has(town_on_fakes) -> None:
    """Else the second line, which is the log's and the answers', would have a hole."""
    async with town_on_fakes(**SETTINGS) as town:
        plant(town)
        await town.hydrated()
        await with_secrets(town, "pole-3")
        await town.client.post("/refresh-token", json={"token": CANARY["refreshed"]})
        services = town.opened.town.services
        known = "".join(s.reveal() for s in live_secrets(town.settings, town.opened.town.roster, services))
        assert "gtb." in known
        assert {*CANARY} - {*found(known)} == {
            # Never the town's, or replaced by what was told later.
            *("key-of-a-callback", "shown-as-a-bearer", "shown-in-a-query", "ticket-shown"),
            *("kilo-of-the-context", "github-of-the-context", "pat-of-the-context", "custom-of-the-context"),
        }


async def test_a_sentence_that_repeats_a_live_secret_is_masked_in_the_answer(town_on_fakes, monkeypatch) -> None:
    async with town_on_fakes(**SETTINGS) as town:

        def crash(*_: Any, **__: Any) -> None:
            raise AgentNotRunning("pole-3", f"shown {CANARY['kilo-of-the-container']}")

        monkeypatch.setattr(town.opened.town.roster, "begin", crash)
        answer = await with_secrets(town, "pole-3")
        assert answer.status_code == 409
        assert "shown [redacted]" in answer.json()["error"]


async def test_a_credential_that_is_a_word_of_the_api_breaks_no_answer(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        words = ("running", "polecat", "status", "agentId", "snapshot", "events", "serverPort", "degraded")
        await town.start("pole-1", envVars={f"PASSWORD_{number}": word for number, word in enumerate(words)})
        status = (await town.client.get("/agents/pole-1/status")).json()
        assert AgentStatus.model_validate(status).status == "running"
        assert (status["agentId"], type(status["serverPort"])) == ("pole-1", int)
