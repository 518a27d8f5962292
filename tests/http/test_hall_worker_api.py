"""The hall's worker API over a real loopback socket and a real SQLite file."""

from __future__ import annotations

import base64
import json
import logging
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trio

from gastown.contract.secret import Secret
from gastown.contract.town import GitAuth
from gastown.hall.api.worker_api import SNAPSHOT_LIMIT
from gastown.hall.app import LOGGER
from gastown.hall.domain.town import DEFAULT_MODEL, RigRecord
from gastown.hall.hall import Hall, HallOptions, open_hall
from gastown.hall.tokens import claimed_town, mint, verify

START = {
    "agentId": "pole-1",
    "rigId": "r1",
    "townId": "oak",
    "role": "polecat",
    "name": "Nux",
    "identity": "Nux of r1",
    "prompt": "do it",
    "model": "m",
    "gitUrl": "https://x.test/r.git",
    "branch": "b",
    "defaultBranch": "main",
}
ENTRY = {"agentId": "pole-1", "request": START, "workdir": "/w/r1", "env": {"A": "1"}, "newer": [1]}
SNAPSHOT = "/rigs/r1/agents/pole-1/db-snapshot"
ROUTES = [
    ("GET", "/container-registry"),
    ("POST", "/container-registry"),
    ("GET", "/mayor-id"),
    ("GET", SNAPSHOT),
    ("POST", SNAPSHOT),
    ("DELETE", SNAPSHOT),
    ("POST", "/container-events"),
    ("POST", "/container-ready"),
    ("POST", "/container-eviction"),
    ("POST", "/refresh-container-token"),
    ("POST", "/rigs/r1/refresh-git-token"),
    ("POST", "/rigs/r1/agent-events"),
    ("POST", "/rigs/r1/agent-events/batch"),
    ("POST", "/rigs/r1/review-queue/e1/complete"),
    ("GET", "/rigs/r1/agents/pole-1/pending-nudges"),
    ("POST", "/rigs/r1/agents/pole-1/nudge-delivered"),
    ("POST", "/rigs/r1/agents/pole-1/heartbeat"),
    ("POST", "/rigs/r1/agents/pole-1/completed"),
    ("POST", "/rigs/r1/agents/pole-1/waiting"),
    ("POST", "/rigs/r1/agents/pole-1/eviction-context"),
]
TAKES_JSON = {path for method, path in ROUTES if method == "POST" and "refresh" not in path} - {SNAPSHOT}


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2030, 5, 1, 12, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@dataclass
class Town:
    """A hall, and a container's way to it."""

    hall: Hall
    clock: Clock
    client: httpx2.AsyncClient
    token: str

    async def ask(self, method: str, path: str, *, token: str | None = None, **content: Any) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {token or self.token}"}
        with trio.fail_after(30):
            return await self.client.request(method, f"/api/towns/oak{path}", headers=headers, **content)


@pytest.fixture
async def town(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> AsyncIterator[Town]:
    clock = Clock()
    caplog.set_level(logging.DEBUG, LOGGER)
    options = HallOptions(
        data_dir=tmp_path / "oak", town_id="oak", kilocode_token=Secret("kilo-secret"), now=clock
    )
    async with open_hall(options) as hall, httpx2.AsyncClient(base_url=hall.url, trust_env=False) as client:
        town = Town(hall, clock, client, (await hall.container_token()).reveal())
        yield town
        # Of every test: no token is in the log.
        assert "kilo-secret" not in caplog.text
        assert town.token not in caplog.text


def is_refusal(answer: httpx2.Response, status: int) -> bool:
    body = answer.json()
    return answer.status_code == status and body["success"] is False and bool(body["error"])


async def test_health_needs_no_token(town: Town) -> None:
    answer = await town.client.get("/health")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
    assert "server" not in answer.headers


async def test_every_route_needs_a_token(town: Town) -> None:
    for method, path in ROUTES:
        answer = await town.client.request(method, f"/api/towns/oak{path}")
        assert is_refusal(answer, 401), path
        assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("header", ["", "Bearer", "Basic eDp5", "Bearer x.y.z", "Bearer ü", "token"])
async def test_what_is_no_token_is_401(town: Town, header: str) -> None:
    raw = {"Authorization": header.encode("latin-1")}
    assert is_refusal(await town.client.get("/api/towns/oak/mayor-id", headers=raw), 401)


async def test_a_token_for_what_cannot_be_a_town_is_401(town: Town) -> None:
    body = base64.urlsafe_b64encode(rb'{"sub": "\ud800"}').decode()
    assert is_refusal(await town.ask("GET", "/mayor-id", token=f"eyJhbGciOiJIUzI1NiJ9.{body}.AAAA"), 401)


async def test_a_token_that_another_hall_signed_is_401(town: Town) -> None:
    assert is_refusal(
        await town.ask("GET", "/mayor-id", token=mint(Secret("x" * 48), "oak", town.clock.now).reveal()), 401
    )


async def test_a_token_of_an_unknown_town_is_401(town: Town) -> None:
    assert is_refusal(
        await town.ask("GET", "/mayor-id", token=mint(Secret("x" * 48), "elm", town.clock.now).reveal()), 401
    )


async def test_the_token_of_another_town_is_403(town: Town) -> None:
    await town.hall.store.create_town("elm", name="Elm", jwt_secret=Secret("e" * 48), mayor_agent_id=None)
    token = mint(Secret("e" * 48), "elm", town.clock.now).reveal()
    for method, path in ROUTES:
        assert is_refusal(await town.ask(method, path, token=token), 403), path


async def test_an_expired_token_is_401_everywhere_but_at_its_refresh(town: Town) -> None:
    town.clock.now += timedelta(hours=8, minutes=59)
    assert is_refusal(await town.ask("GET", "/mayor-id"), 401)
    fresh = (await town.ask("POST", "/refresh-container-token", json={})).json()["data"]["token"]
    assert (await town.ask("GET", "/mayor-id", token=fresh)).status_code == 200


async def test_a_token_that_expired_over_an_hour_ago_buys_nothing(town: Town) -> None:
    town.clock.now += timedelta(hours=9)
    assert is_refusal(await town.ask("POST", "/refresh-container-token", json={}), 401)


@pytest.mark.parametrize("content", [b"", b"{}", b"not json"])
async def test_a_refresh_does_not_depend_on_its_body(town: Town, content: bytes) -> None:
    answer = await town.ask("POST", "/refresh-container-token", content=content)
    token = Secret(answer.json()["data"]["token"])
    secret = await town.hall.store.jwt_secret("oak")
    assert secret is not None
    assert claimed_town(token) == "oak"
    assert verify(token, secret, town.clock.now + timedelta(hours=7, minutes=59)) == "oak"


async def test_the_registry_is_empty_at_first(town: Town) -> None:
    assert (await town.ask("GET", "/container-registry")).json() == {"data": []}


async def test_the_registry_comes_back_as_it_was_sent(town: Town) -> None:
    assert (await town.ask("POST", "/container-registry", json=[ENTRY])).status_code == 200
    assert (await town.ask("GET", "/container-registry")).json() == {"data": [ENTRY]}
    await town.ask("POST", "/container-registry", json=[])
    assert (await town.ask("GET", "/container-registry")).json() == {"data": []}


async def test_a_mayor_that_comes_back_browses_the_repositories_of_now(town: Town) -> None:
    mayor = str((await town.hall.town()).mayor_agent_id)
    request = START | {"agentId": mayor, "role": "mayor", "rigs": [{"rigId": "old"}]}
    entry = {"agentId": mayor, "request": request, "workdir": "/w/m", "env": {}}
    rigs = [{"rigId": "r", "gitUrl": "https://x.test/r.git", "defaultBranch": "main"}]
    await town.hall.store.replace_registry("oak", [entry, ENTRY])
    await town.hall.store.save_rig(
        "oak", RigRecord(rig_id="r", git_url="https://x.test/r.git", default_branch="main")
    )
    assert (await town.ask("GET", "/container-registry")).json()["data"] == [
        entry | {"request": request | {"rigs": rigs, "organizationId": None, "model": DEFAULT_MODEL}},
        ENTRY,
    ]


async def test_the_gateways_token_never_reaches_the_disk(town: Town, tmp_path: Path) -> None:
    variables = {"KILOCODE_TOKEN": "kilo-secret", "A": "1"}
    entry = ENTRY | {"request": START | {"envVars": variables}, "env": variables}
    assert (await town.ask("POST", "/container-registry", json=[entry])).status_code == 200
    kept = ENTRY | {"request": START | {"envVars": {"A": "1"}}, "env": {"A": "1"}}
    assert (await town.ask("GET", "/container-registry")).json()["data"] == [kept]
    assert (await town.ask("GET", "/mayor-id")).json()["kilocodeToken"] == "kilo-secret"
    assert [file for file in (tmp_path / "oak").iterdir() if b"kilo-secret" in file.read_bytes()] == []


@pytest.mark.parametrize(
    "entries",
    [
        {},
        None,
        "x",
        [1],
        [{}],
        [ENTRY | {"agentId": "../x"}],
        [ENTRY | {"workdir": ""}],
        [ENTRY | {"env": {"A": 1}}],
        [ENTRY | {"request": START | {"gitUrl": ""}}],
        [ENTRY | {"request": START | {"prompt": ["x"]}}],
    ],
)
async def test_a_registry_of_the_wrong_shape_is_400_and_changes_nothing(town: Town, entries: object) -> None:
    await town.ask("POST", "/container-registry", json=[ENTRY])
    answer = await town.ask("POST", "/container-registry", content=json.dumps(entries))
    assert is_refusal(answer, 400)
    assert answer.json()["issues"]
    assert (await town.ask("GET", "/container-registry")).json() == {"data": [ENTRY]}


async def test_a_refused_registry_is_not_quoted(town: Town) -> None:
    entry = ENTRY | {"request": START | {"envVars": {"X=": "my-secret-value"}}}
    answer = await town.ask("POST", "/container-registry", json=[entry])
    assert answer.status_code == 400
    assert "my-secret-value" not in answer.text


async def test_the_mayor_context_is_what_the_next_dispatch_brings(town: Town) -> None:
    context = (await town.ask("GET", "/mayor-id")).json()
    assert context["success"] is True
    assert context["agentId"].startswith("mayor-")
    assert context["kilocodeToken"] == "kilo-secret"
    assert context["organizationId"] is None
    assert context["model"] == "anthropic/claude-sonnet-4.6"


async def test_the_mayor_context_follows_the_towns_configuration(town: Town) -> None:
    await town.hall.store.change_town("oak", {"organization_id": "org-1", "role_models": {"mayor": "m"}})
    context = (await town.ask("GET", "/mayor-id")).json()
    assert (context["organizationId"], context["model"]) == ("org-1", "m")
    await town.hall.store.change_town("oak", {"kilocode_token": None})
    assert (await town.ask("GET", "/mayor-id")).json() == {"success": True, "agentId": context["agentId"]}


async def test_a_snapshot_is_kept_given_back_and_forgotten(town: Town) -> None:
    assert is_refusal(await town.ask("GET", SNAPSHOT), 404)
    content = bytes(range(256)) * 5000
    assert (await town.ask("POST", SNAPSHOT, content=content)).status_code == 200
    answer = await town.ask("GET", SNAPSHOT)
    assert (answer.content, answer.headers["content-type"]) == (content, "application/octet-stream")
    assert (await town.ask("DELETE", SNAPSHOT)).status_code == 200
    assert (await town.ask("DELETE", SNAPSHOT)).status_code == 200
    assert is_refusal(await town.ask("GET", SNAPSHOT), 404)


async def test_an_empty_snapshot_is_400(town: Town) -> None:
    assert is_refusal(await town.ask("POST", SNAPSHOT, content=b""), 400)


async def test_a_snapshot_that_says_it_is_too_large_is_413_before_it_is_read(town: Town) -> None:
    host, port = town.hall.url.removeprefix("http://").split(":")
    stream = await trio.open_tcp_stream(host, int(port))
    async with stream:
        await stream.send_all(
            f"POST /api/towns/oak{SNAPSHOT} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {town.token}\r\n"
            f"Content-Length: {SNAPSHOT_LIMIT + 1}\r\n\r\n".encode()
        )
        with trio.fail_after(10):
            assert (await stream.receive_some(200)).startswith(b"HTTP/1.1 413")


async def test_a_snapshot_that_turns_out_too_large_is_413(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gastown.hall.api.worker_api.SNAPSHOT_LIMIT", 100_000)

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 10_000

    answer = await town.ask("POST", SNAPSHOT, content=pieces())
    assert is_refusal(answer, 413)
    assert is_refusal(await town.ask("GET", SNAPSHOT), 404)


async def test_an_event_is_kept_as_it_came(town: Town) -> None:
    event = {"event": "mayor.prewarm_complete", "townId": "oak", "durationMs": 12, "newer": {"x": "\ud800"}}
    assert (await town.ask("POST", "/container-events", content=json.dumps(event))).status_code == 200
    [kept] = await town.hall.store.events("oak")
    assert (kept.event, kept.body) == ("mayor.prewarm_complete", event)


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"event": 1},
        {"event": ""},
        {"event": "x" * 101},
        {"event": "a\nb"},
        {"event": "\ud800"},
        {"event": "a.b", "townId": "elm"},
        {"event": "a.b", "townId": None},
    ],
)
async def test_an_event_of_the_wrong_shape_is_400(town: Town, event: dict[str, object]) -> None:
    assert is_refusal(await town.ask("POST", "/container-events", content=json.dumps(event)), 400)
    assert await town.hall.store.events("oak") == []


async def test_an_event_that_is_too_large_is_413(town: Town) -> None:
    assert is_refusal(await town.ask("POST", "/container-events", json={"event": "a", "x": "x" * 300_000}), 413)


@pytest.mark.parametrize(
    ("path", "event"),
    [
        ("/container-ready", "container.ready"),
        ("/container-eviction", "container.eviction"),
        ("/rigs/r1/agents/pole-1/completed", "agent.completed"),
        ("/rigs/r1/agents/pole-1/waiting", "agent.waiting"),
        ("/rigs/r1/agents/pole-1/eviction-context", "agent.eviction_context"),
        ("/rigs/r1/review-queue/e1/complete", "review.complete"),
    ],
)
async def test_what_is_reported_once_becomes_an_event(town: Town, path: str, event: str) -> None:
    status = "merged" if event == "review.complete" else "completed"
    said = await town.ask("POST", path, json={"status": status, "message": "as it was"})
    assert said.status_code == 200
    [kept] = await town.hall.store.events("oak")
    assert (kept.event, kept.body["status"]) == (event, status)


@pytest.mark.parametrize("path", ["/rigs/r1/agents/pole-1/completed", "/rigs/r1/review-queue/e1/complete"])
async def test_an_end_that_makes_no_sense_is_refused_and_not_kept(town: Town, path: str) -> None:
    assert is_refusal(await town.ask("POST", path, json={"status": "vanished"}), 400)
    assert await town.hall.store.events("oak") == []


async def test_the_git_token_is_the_towns(town: Town) -> None:
    assert is_refusal(await town.ask("POST", "/rigs/r1/refresh-git-token"), 404)
    await town.hall.store.change_town("oak", {"git_auth": GitAuth(github_token=Secret("gh"))})
    assert (await town.ask("POST", "/rigs/r1/refresh-git-token")).json() == {"data": {"token": "gh"}}


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"\xff\xfe", b"NaN", b'{"a": Infinity}', b'{"a": -1e999}', b"1" * 10_000),
        *(b"[" * 100_000, b'{"a": ' + b"[" * 200 + b"]" * 200 + b"}", b'{"a":1}x', b"\x00"),
    ],
    ids=[
        *("empty", "cut", "not UTF-8", "NaN", "Infinity", "beyond floats", "a huge number"),
        *("very deep", "deep", "two values", "NUL"),
    ],
)
async def test_a_body_that_is_no_json_is_400(town: Town, content: bytes) -> None:
    for path in TAKES_JSON:
        assert is_refusal(await town.ask("POST", path, content=content), 400), path


@pytest.mark.parametrize("body", [[], "x", 1, None, True])
async def test_a_body_that_is_no_object_is_400(town: Town, body: object) -> None:
    for path in TAKES_JSON - {"/container-registry", "/rigs/r1/agent-events/batch"}:
        assert is_refusal(await town.ask("POST", path, content=json.dumps(body)), 400), path


@pytest.mark.parametrize("path", ["/rigs/{}/agents/a/db-snapshot", "/rigs/r/agents/{}/db-snapshot"])
async def test_a_name_that_is_no_identifier_never_reaches_the_store(town: Town, path: str) -> None:
    for name in ("..%2Fx", "a%00b", "-x", "a%20b", "x" * 200, "%ff", "a..b"):
        answer = await town.ask("POST", path.format(name), content=b"x")
        assert answer.status_code in (400, 404), name
        assert answer.json()["success"] is False


@pytest.mark.parametrize(
    "path", ["/", "/api", "/api/towns/oak", "/api/towns/oak/", "/api//towns/oak/mayor-id", "/x%ff"]
)
async def test_an_unknown_route_is_a_json_404(town: Town, path: str) -> None:
    answer = await town.client.get(path)
    assert (answer.status_code, answer.json()) == (404, {"success": False, "error": "Not found"})


async def test_a_method_that_a_route_has_not_is_a_json_405(town: Town) -> None:
    answer = await town.ask("PUT", SNAPSHOT, content=b"x")
    assert is_refusal(answer, 405)
    assert {"GET", "POST", "DELETE"} <= set(answer.headers["allow"].replace(",", " ").split())


async def test_a_failure_of_the_hall_itself_is_a_500_that_tells_only_the_log(
    town: Town, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(_town_id: str) -> list[object]:
        raise RuntimeError("the disk is gone")

    monkeypatch.setattr(town.hall.store, "registry", broken)
    answer = await town.ask("GET", "/container-registry")
    assert is_refusal(answer, 500)
    assert "disk" not in answer.text
    assert "the disk is gone" in caplog.text


async def test_a_request_that_is_no_http_is_answered_and_harms_nobody(town: Town) -> None:
    host, port = town.hall.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as raw:
        raw.sendall(b"\x16\x03\x01 nonsense\r\n\r\n")
        await trio.lowlevel.checkpoint()
        assert (await town.client.get("/health")).status_code == 200
