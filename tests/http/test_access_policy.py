"""The door of the control port: tokens and their scopes, tickets, web pages; and that it tells nobody anything."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import httpx2
import pytest
from httpx2.websockets import WebSocketUpgradeError

from gastown.assembly import live_secrets
from gastown.contract.access import Scope
from gastown.control.app import ROUTES, SOCKETS, create_app
from gastown.control.auth.policy import AccessPolicy, AuthMiddleware, access_policy
from gastown.logs import redacted
from gastown.testing.sockets import Refused, open_socket, refusal
from gastown.testing.town import TOWN, FakeTown, ToldSettings

pytestmark = pytest.mark.virtual_time

CONTROL, ATTACH, READ = ("canary-control-" * 3, "canary-attach-" * 3, "canary-read-" * 3)
UNKNOWN = "canary-unknown-" * 3
LOCKS = {"gastown_control_token": CONTROL, "gastown_attach_token": ATTACH, "gastown_read_token": READ}
HELD = {None: Scope.OPEN, UNKNOWN: Scope.OPEN, READ: Scope.READ, ATTACH: Scope.ATTACH, CONTROL: Scope.CONTROL}

NEEDED = {
    "GET /health": "open",
    "GET /livez": "open",
    "GET /readyz": "open",
    "GET /metrics": "read",
    "GET /openapi.json": "read",
    "GET /drain": "read",
    "GET /agents": "read",
    "GET /agents/<agent_id>/status": "read",
    "GET /agents/<agent_id>/events": "read",
    "GET /agents/<agent_id>/pending-nudges": "read",
    "GET /agents/<agent_id>/pty": "read",
    "GET /agents/<agent_id>/pty/<pty_id>": "read",
    "POST /agents/<agent_id>/pty": "attach",
    "PUT /agents/<agent_id>/pty/<pty_id>": "attach",
    "DELETE /agents/<agent_id>/pty/<pty_id>": "attach",
    "POST /agents/<agent_id>/stream-ticket": "attach",
    "WS /ws": "attach",
    "WS /agents/<agent_id>/stream": "attach",
    "WS /agents/<agent_id>/pty/<pty_id>/connect": "attach",
    "POST /agents/start": "control",
    "POST /agents/<agent_id>/stop": "control",
    "POST /agents/<agent_id>/message": "control",
    "PATCH /agents/<agent_id>/model": "control",
    "PUT /agents/<agent_id>/system-prompt": "control",
    "POST /agents/<agent_id>/nudge-delivered": "control",
    "POST /refresh-token": "control",
    "POST /sync-config": "control",
    "POST /dashboard-context": "control",
    "POST /repos/setup": "control",
    "POST /git/merge": "control",
    "GET /git/merges/<entry_id>": "read",
    "GET /rigs/<rig_id>/changes": "control",
    "POST /drain": "control",
}
"""Who may do what, written down a second time: a new route belongs here before it is served."""


def bearer(token: str | None) -> dict[str, str]:
    return {} if token is None else {"Authorization": f"Bearer {token}"}


def path_of(place: str) -> str:
    return place.partition(" ")[2].replace("<agent_id>", "nobody").replace("<pty_id>", "pty_1")


@asynccontextmanager
async def locked(town_on_fakes: Any, **settings: Any) -> AsyncIterator[FakeTown]:
    """A town with three tokens, whose client shows the one for control unless it is told otherwise."""
    async with town_on_fakes(**LOCKS, **settings) as town:
        town.client.headers["Authorization"] = f"Bearer {CONTROL}"
        yield town


def as_(town: FakeTown, token: str | None) -> httpx2.AsyncClient:
    """A client that shows `token`."""
    client = town.network.client("http://town")
    client.headers.update(bearer(token))
    return client


async def answer_to(client: httpx2.AsyncClient, place: str) -> tuple[int, Any, httpx2.Headers]:
    method, path = place.partition(" ")[0], path_of(place)
    if method != "WS":
        answer = await client.request(method, path, content=b"{}" if method in ("POST", "PUT", "PATCH") else None)
        is_json = answer.headers["content-type"] == "application/json"
        return answer.status_code, answer.json() if is_json else answer.text, answer.headers
    try:
        async with open_socket(client, f"ws://town{path}"):
            return 101, {}, httpx2.Headers()
    except WebSocketUpgradeError as error:
        refused = await refusal(client, f"ws://town{path}")
        return refused.status, refused.body, error.response.headers


async def test_every_route_and_every_socket_is_in_the_table_above(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        served = {
            f"{method} {rule.rule}"
            for rule in create_app(town.opened.town).url_map.iter_rules()
            for method in ({"WS"} if rule.websocket else rule.methods - {"HEAD", "OPTIONS"})
        }
    declared = {f"{route.method} {route.path}": route.scope.word for route in ROUTES}
    declared |= {f"WS {socket.path}": socket.scope.word for socket in SOCKETS} | {"GET /openapi.json": "read"}
    assert served == NEEDED.keys()
    assert declared == NEEDED


@pytest.mark.parametrize("place", NEEDED)
@pytest.mark.parametrize("token", HELD, ids=["none", "unknown", "read", "attach", "control"])
async def test_each_scope_gets_as_far_as_it_goes(town_on_fakes, place: str, token: str | None) -> None:
    needed, held = Scope[NEEDED[place].upper()], HELD[token]
    async with locked(town_on_fakes) as town:
        status, body, headers = await answer_to(as_(town, token), place)
        if held >= needed:
            assert status not in (401, 403)
        elif held is Scope.OPEN:
            assert (status, headers["www-authenticate"]) == (401, "Bearer")
            assert body["error"].startswith(("A token of this container is needed", "A stream ticket is required"))
        else:
            sentence = f"This needs a token with the scope {needed.word}; this one has {held.word}"
            assert (status, body) == (403, {"error": sentence, "scope": needed.word})


async def test_what_is_served_without_a_scope_is_controls_alone(town_on_fakes) -> None:
    async def forgotten() -> str:
        return "done"

    async with locked(town_on_fakes) as town:
        app = create_app(town.opened.town)
        app.add_url_rule("/forgotten", "forgotten", forgotten)
        town.network.serve(app, "forgetful")
        found = {}
        for token, held in HELD.items():
            answer = await as_(town, token).get("http://forgetful/forgotten")
            found[held] = answer.status_code
        assert found == {Scope.OPEN: 401, Scope.READ: 403, Scope.ATTACH: 403, Scope.CONTROL: 200}


@pytest.mark.parametrize("place", NEEDED)
async def test_without_tokens_everybody_may_do_everything(town_on_fakes, place: str) -> None:
    async with town_on_fakes() as town:
        status, _, _ = await answer_to(as_(town, UNKNOWN), place)
        assert status not in (401, 403)


WRONG = {
    "another scheme": [f"Basic {CONTROL}"],
    "no scheme": [CONTROL],
    "nothing": [""],
    "only a scheme": ["Bearer"],
    "twice the same": [f"Bearer {CONTROL}"] * 2,
    "one of two": [f"Bearer {CONTROL}", f"Bearer {UNKNOWN}"],
    "one character less": [f"Bearer {CONTROL[:-1]}"],
    "one character more": [f"Bearer {CONTROL}x"],
    "in capitals": [f"Bearer {CONTROL.upper()}"],
    "two in one": [f"Bearer {CONTROL}, Bearer {CONTROL}"],
    "not ASCII": ["Bearer \xe9\xe8\xff".encode("latin-1")],
    "8 KiB": ["Bearer " + "x" * 8192],
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_what_is_no_token_opens_nothing(town_on_fakes, wrong: str) -> None:
    async with locked(town_on_fakes) as town:
        headers = [("Authorization", value) for value in WRONG[wrong]]
        client = as_(town, None)
        answer = await client.get("/agents/nobody/status", headers=headers)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert list(answer.json()) == ["error"]
        assert (await refusal(client, "ws://town/ws")).status == 401


@pytest.mark.parametrize("value", [f"Bearer {READ}", f"bearer {READ}", f"BEARER  {READ}"])
async def test_the_scheme_is_a_word_and_space_before_the_token_is_none_of_it(town_on_fakes, value: str) -> None:
    async with locked(town_on_fakes) as town:
        answer = await as_(town, None).get("/agents/nobody/status", headers={"Authorization": value})
        assert answer.status_code == 404


async def test_a_stranger_learns_nothing_of_what_there_is(town_on_fakes) -> None:
    async with locked(town_on_fakes) as town:
        client = as_(town, UNKNOWN)
        for method, path in [("GET", "/no/such"), ("PUT", "/health"), ("OPTIONS", "/drain"), ("GET", "//drain")]:
            assert (await client.request(method, path)).status_code == 401
        reader = as_(town, READ)
        assert (await reader.get("/no/such")).status_code == 404
        assert (await reader.put("/drain")).status_code == 405


async def test_health_says_a_stranger_no_more_than_its_status(town_on_fakes) -> None:
    async with locked(town_on_fakes) as town:
        for token in (None, UNKNOWN):
            answer = await as_(town, token).get("/health")
            assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
        for token in (READ, CONTROL):
            told = (await as_(town, token).get("/health")).json()
            assert {"status", "agents", "servers", "uptime", "startedAt", "hydration"} <= told.keys()


async def test_health_says_a_stranger_when_hydration_has_failed(town_on_fakes) -> None:
    async with locked(town_on_fakes) as town:
        town.worker.statuses["GET /container-registry"] = 500
        await town.hydrated()
        assert (await as_(town, None).get("/health")).json() == {"status": "degraded"}


async def test_only_control_gets_a_nonce_acknowledged(town_on_fakes) -> None:
    async with locked(town_on_fakes) as town:
        for name, token in (("stranger", None), ("reader", READ), ("control", CONTROL)):
            headers = {"X-Drain-Nonce": name, "X-Town-Id": TOWN}
            assert (await as_(town, token).get("/health", headers=headers)).status_code == 200
        await town.opened.town.services.reports.flushed()
        assert town.worker.reports("POST /container-ready") == [{"nonce": "control"}]


@pytest.mark.parametrize("place", [place for place in NEEDED if not place.startswith("WS")])
@pytest.mark.parametrize("token", [None, UNKNOWN, READ, ATTACH], ids=["none", "unknown", "read", "attach"])
async def test_only_control_changes_the_towns_config(town_on_fakes, place: str, token: str | None) -> None:
    async with locked(town_on_fakes) as town:
        credentials = town.opened.town.services.credentials
        before = credentials.current.generation
        method = place.partition(" ")[0]
        header = {"X-Town-Config": '{"git_author_name": "Mallory"}'}
        answer = await as_(town, token).request(method, path_of(place), headers=header)
        assert answer.status_code == (403 if HELD[token] else 401)
        assert credentials.current.generation == before
        await town.client.post("/sync-config", headers=header)
        assert credentials.current.generation == before + 1


async def ticket_for(town: FakeTown, agent_id: str, token: str = ATTACH) -> str:
    return (await as_(town, token).post(f"/agents/{agent_id}/stream-ticket")).json()["ticket"]


STREAMS = ["/agents/a/stream", "/ws?agentId=a"]


@pytest.mark.parametrize("path", STREAMS)
async def test_a_browser_opens_a_socket_with_a_ticket_and_without_a_header(town_on_fakes, path: str) -> None:
    async with locked(town_on_fakes) as town:
        browser = as_(town, None)
        assert (await refusal(browser, f"ws://town{path}")).status == 401
        joined = "&" if "?" in path else "?"
        url = f"ws://town{path}{joined}ticket={await ticket_for(town, 'a')}"
        async with open_socket(browser, url) as stream:
            town.opened.town.services.events.append("a", "hello", {})
            assert [frame["event"] for frame in await stream.events(1)] == ["hello"]
        assert (await refusal(browser, url)).status == 403


async def test_a_ticket_opens_nothing_but_its_agents_sockets(town_on_fakes) -> None:
    async with locked(town_on_fakes) as town:
        browser = as_(town, None)
        for path in ("/ws", "/agents/b/stream", "/agents/b/pty/pty_1/connect", "/no/such/socket"):
            url = f"ws://town{path}?ticket={await ticket_for(town, 'a')}"
            assert (await refusal(browser, url)).status == 403
        ticket = await ticket_for(town, "a")
        assert (await browser.get(f"/agents/a/status?ticket={ticket}")).status_code == 401


async def test_a_bearer_opens_a_socket_of_all_agents(town_on_fakes) -> None:
    async with locked(town_on_fakes) as town, open_socket(as_(town, ATTACH), "ws://town/ws") as stream:
        for agent_id in ("a", "b"):
            town.opened.town.services.events.append(agent_id, "hello", {})
        assert [frame["agentId"] for frame in await stream.events(2)] == ["a", "b"]


async def test_a_bearer_is_good_where_tickets_are_required(town_on_fakes) -> None:
    async with locked(town_on_fakes, gastown_require_tickets=True) as town:
        client = as_(town, ATTACH)
        async with open_socket(client, "ws://town/agents/a/stream"):
            pass


async def test_a_bearer_that_is_wrong_is_not_mended_by_a_ticket(town_on_fakes) -> None:
    async with locked(town_on_fakes) as town:
        url = f"ws://town/agents/a/stream?ticket={await ticket_for(town, 'a')}"
        assert (await refusal(as_(town, UNKNOWN), url)).status == 401
        assert (await refusal(as_(town, READ), url)).status == 403
        async with open_socket(as_(town, None), url):
            pass


async def test_a_token_in_the_address_is_no_token(town_on_fakes) -> None:
    async with locked(town_on_fakes) as town:
        client = as_(town, None)
        for name in ("token", "access_token", "ticket", "auth_token"):
            assert (await client.get(f"/drain?{name}={CONTROL}")).status_code == 401
            assert (await refusal(client, f"ws://town/ws?{name}={CONTROL}")).status in (401, 403)
        assert (await client.get("/drain", headers={"Cookie": f"token={CONTROL}"})).status_code == 401


PAGE, DESK = "https://evil.example", "https://desk.example"
Opening = Callable[..., AbstractAsyncContextManager[FakeTown]]


def unlocked(town_on_fakes: Any, **settings: Any) -> AbstractAsyncContextManager[FakeTown]:
    """A town as on a desk: on loopback, without a token."""
    return town_on_fakes(gastown_insecure=False, **settings)


@pytest.mark.parametrize("opening", [unlocked, locked])
@pytest.mark.parametrize("place", NEEDED)
async def test_a_foreign_page_gets_nothing_anywhere(town_on_fakes, opening: Opening, place: str) -> None:
    async with opening(town_on_fakes) as town:
        headers = {"Host": "localhost:8080", "Origin": PAGE, "Content-Type": "text/plain"}
        town.client.headers.update(headers)
        method, path = place.partition(" ")[0], path_of(place)
        if method == "WS":
            refused = await refusal(town.client, f"ws://town{path}")
        else:
            answer = await town.client.request(method, path)
            assert "access-control-allow-origin" not in answer.headers
            refused = Refused(answer.status_code, answer.json())
        sentence = f"Web pages of {PAGE} may not call this server; GASTOWN_CONTROL_ORIGINS lists those that may"
        assert refused == (403, {"error": sentence})


async def test_without_tokens_nobody_gets_in_under_another_name_than_loopback(town_on_fakes) -> None:
    async with unlocked(town_on_fakes) as town:
        for host in ("evil.example:8080", "town", "192.0.2.7"):
            town.client.headers["Host"] = host
            assert (await town.client.get("/health")).status_code == 403
            assert (await refusal(town.client, "ws://town/ws")).status == 403
        town.client.headers["Host"] = "127.0.0.1:8080"
        assert (await town.client.get("/health")).status_code == 200


async def test_beyond_loopback_without_tokens_a_page_that_came_by_a_name_changes_nothing(town_on_fakes) -> None:
    async with town_on_fakes(gastown_insecure=True) as town:
        town.client.headers["Origin"] = "http://town"
        assert (await town.client.post("/sync-config")).status_code == 403
        assert (await refusal(town.client, "ws://town/ws")).status == 403
        town.client.headers.update({"Host": "192.0.2.7", "Origin": "http://192.0.2.7"})
        assert (await town.client.post("/sync-config")).status_code == 200


async def test_behind_tokens_a_page_of_the_servers_own_name_may_call(town_on_fakes) -> None:
    async with locked(town_on_fakes) as town:
        town.client.headers["Origin"] = "https://town"
        town.client.headers["Host"] = "town"
        assert (await town.client.post("/sync-config")).status_code == 200


async def test_the_servers_own_page_may_call(town_on_fakes) -> None:
    async with unlocked(town_on_fakes) as town:
        town.client.headers.update({"Host": "localhost:8080", "Origin": "http://localhost:8080"})
        assert (await town.client.post("/sync-config")).status_code == 200
        async with open_socket(town.client, "ws://town/ws"):
            pass


async def test_a_listed_page_may_call_and_see_the_answer(town_on_fakes) -> None:
    async with locked(town_on_fakes, gastown_control_origins=(DESK,)) as town:
        page = as_(town, None)
        page.headers["Origin"] = DESK
        asking = {
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type",
        }
        preflight = await page.options("/agents/start", headers=asking)
        assert (preflight.status_code, preflight.content) == (204, b"")
        assert preflight.headers["access-control-allow-origin"] == DESK
        assert "POST" in preflight.headers["access-control-allow-methods"]
        assert "authorization" in preflight.headers["access-control-allow-headers"]
        for token, status in ((None, 401), (READ, 404), (CONTROL, 404)):
            answer = await page.get("/agents/nobody/status", headers=bearer(token))
            assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (status, DESK)
            assert answer.headers["vary"] == "Origin"
        assert (await page.options("/agents/start")).status_code == 401
        async with open_socket(page, f"ws://town/agents/a/stream?ticket={await ticket_for(town, 'a')}"):
            pass


async def test_who_is_no_page_gets_no_cors(town_on_fakes) -> None:
    async with locked(town_on_fakes, gastown_control_origins=(DESK,)) as town:
        answer = await town.client.get("/health")
        assert [name for name in answer.headers if name.startswith("access-control") or name == "vary"] == []


@pytest.mark.parametrize("headers", [{"host": "localhost", "origin": PAGE}, {"host": "localhost"}])
async def test_a_refusal_is_made_before_anything_of_the_body_is_read(headers: dict[str, str]) -> None:
    async def unread(*_: Any) -> Any:
        raise AssertionError("the body was read, or the app was asked")

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    settings = ToldSettings(base_env={"PATH": "/bin"}, **LOCKS)
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/agents/start",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    await AuthMiddleware(unread, access_policy(settings, "0.0.0.0"), {"/health"})(scope, unread, send)
    assert sent[0]["status"] == (403 if "origin" in headers else 401)


async def test_no_token_is_in_an_answer_or_in_the_log(town_on_fakes) -> None:
    """The log of these tests is given no list of secrets: a token must not get there at all."""
    async with locked(town_on_fakes) as town:
        said = []
        for token in HELD:
            client = as_(town, token)
            said += [
                (await client.get(path)).text for path in ("/health", "/openapi.json", "/no", f"/{CONTROL[:0]}")
            ]
            said += [(await client.post("/agents/start", json={})).text]
            said += [str(await refusal(client, f"ws://town/agents/a/stream?ticket={UNKNOWN}"))]
        assert town.logged("request.unknown_bearer")
        assert re.findall("canary", "".join(said) + town.log.getvalue()) == []


async def test_a_token_that_gets_into_the_log_all_the_same_is_struck_out(town_on_fakes) -> None:
    async with locked(town_on_fakes) as town:
        known = live_secrets(town.settings, town.opened.town.roster, town.opened.town.services)
        assert redacted(f"{CONTROL} {ATTACH} {READ}", known) == " ".join(["[redacted]"] * 3)


async def test_no_child_gets_a_token(town_on_fakes) -> None:
    async with locked(town_on_fakes) as town:
        await town.start("pole-1", envVars={"GASTOWN_CONTROL_TOKEN": "x"})
        (spawn,) = town.kilo.spawns
        assert "canary" not in f"{spawn.spec!r}{dict(spawn.spec.env)}"
        assert "GASTOWN_CONTROL_TOKEN" not in spawn.spec.env


def test_a_door_does_not_show_its_tokens() -> None:
    policy: AccessPolicy = access_policy(ToldSettings(base_env={"PATH": "/bin"}, **LOCKS), "0.0.0.0")
    assert "canary" not in repr(policy)
