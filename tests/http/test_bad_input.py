"""Whatever is sent, the answer is JSON with a sentence, and never an error of ours."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from trio.testing import wait_all_tasks_blocked

from gastown.contract.agents import StartAgentRequest
from gastown.contract.secret import Secret
from gastown.control.app import ROUTES
from gastown.testing.town import FakeTown, start_request

pytestmark = pytest.mark.virtual_time

JSON = {"Content-Type": "application/json"}
WITH_BODY = [route for route in ROUTES if route.body is not None]
NAMES = [f"{route.method} {route.path}" for route in ROUTES]
NAMES_WITH_BODY = [f"{route.method} {route.path}" for route in WITH_BODY]
LONG = "x" * 5_000
HOSTILE = [
    "..",
    "../../etc",
    "a/../b",
    "a/b",
    "/etc",
    "a\\b",
    "a b",
    "",
    " ",
    "a\nb",
    "a\x00b",
    "\x1b[2J",
    "-rf",
    LONG,
    "é",
]


def address(name: str, agent_id: str = "pole-1") -> tuple[str, str]:
    method, path = name.split(" ")
    return method, path.replace("<agent_id>", agent_id).replace("<pty_id>", "pty_1")


async def send(town: FakeTown, name: str, content: Any, headers: dict[str, str] = JSON) -> httpx2.Response:
    method, path = address(name)
    return await town.client.request(method, path, content=content, headers=headers)


def is_sentence(answer: httpx2.Response) -> bool:
    """Whether the answer says what is wrong, in JSON."""
    body = answer.json()
    return (
        isinstance(body["error"], str)
        and len(body["error"]) > 5
        and answer.headers["content-type"] == "application/json"
    )


KEYS = ("agentId", "token", "context", "prompt", "model", "systemPrompt")
BROKEN = {
    "nothing": b"",
    "half an object": b'{"agentId": "x"',
    "no JSON": b"agentId=x",
    "not UTF-8": b'{"agentId": "\xff\xfe"}',
    "a lone surrogate": b'{"agentId": "\\ud800", "prompt": "\\ud800", "token": "\\ud800", "context": "\\ud800"}',
    "a list": b"[]",
    "a string": b'"x"',
    "a number": b"5",
    "null": b"null",
    "NaN": b"NaN",
    "an empty object": b"{}",
    "deep lists": b"[" * 100_000,
    "deep objects": b'{"a":' * 100_000,
    "lists that Python would read": b'{"a": ' + b"[" * 900 + b"]" * 900 + b"}",
    "a number beyond floats": b"{" + b", ".join(b'"%s": 1e999' % key.encode() for key in KEYS) + b"}",
    "an endless number": b'{"agentId": ' + b"9" * 100_000 + b"}",
    "control characters": b'{"a": "\x01"}',
    **{
        f"{value} for everything": json.dumps(dict.fromkeys(KEYS, value)).encode()
        for value in (1, None, False, [])
    },
}


STOP = "POST /agents/<agent_id>/stop"


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
async def test_a_stop_stops_whatever_its_body_is(town_on_fakes, content: bytes) -> None:
    """It had no body at first, so no caller's may be in its way."""
    async with town_on_fakes() as town:
        await town.start("pole-1")
        assert (await send(town, STOP, content)).status_code == 200


@pytest.mark.parametrize("name", [name for name in NAMES_WITH_BODY if name != STOP])
async def test_a_body_that_is_wrong_is_a_400_that_says_where(town_on_fakes, name: str) -> None:
    async with town_on_fakes() as town:
        await town.start("pole-1")
        seen = {}
        broken = {
            kind: content
            for kind, content in BROKEN.items()
            if name not in WITHOUT_REQUIRED_KEYS or not harmless(content)
        }
        for kind, content in broken.items():
            answer = await send(town, name, content)
            body = answer.json()
            seen[kind] = (answer.status_code, body["error"], all(issue["message"] for issue in body["issues"]))
        assert seen == dict.fromkeys(broken, (400, "Invalid request body", True))


WITHOUT_REQUIRED_KEYS = ("POST /drain", "PUT /agents/<agent_id>/pty/<pty_id>")


def harmless(content: bytes) -> bool:
    """Whether a route that needs no key of a body, or no body, may take it."""
    try:
        return not content or isinstance(json.loads(content), dict)
    except (ValueError, RecursionError):
        return False


async def test_an_issue_names_its_place_as_the_caller_wrote_it(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        body = start_request(rigId="..", envVars={"A": 1}, rigs=[{"rigId": "r"}], model=...)
        issues = (await town.client.post("/agents/start", json=body)).json()["issues"]
        assert [issue["path"] for issue in issues] == [
            ["rigId"],
            ["model"],
            ["envVars", "A"],
            ["rigs", 0, "gitUrl"],
            ["rigs", 0, "defaultBranch"],
        ]


@pytest.mark.parametrize("key", ["agentId", "rigId", "townId"])
async def test_an_identifier_that_could_leave_its_directory_is_refused(town_on_fakes, key: str) -> None:
    async with town_on_fakes() as town:
        seen = {}
        for value in HOSTILE:
            answer = await town.client.post("/agents/start", json=start_request("pole-1", **{key: value}))
            seen[value] = (answer.status_code, [issue["path"] for issue in answer.json()["issues"]])
        assert seen == dict.fromkeys(HOSTILE, (400, [[key]]))
        assert town.kilo.spawns == []


@pytest.mark.parametrize("key", ["name", "identity", "gitUrl", "branch", "defaultBranch", "model", "smallModel"])
async def test_control_characters_are_refused_where_they_could_end_a_line_or_an_argument(
    town_on_fakes, key: str
) -> None:
    async with town_on_fakes() as town:
        for character in "\x00\n\r\x1b\x7f":
            answer = await town.client.post(
                "/agents/start", json=start_request("pole-1", **{key: f"a{character}b"})
            )
            assert (answer.status_code, answer.json()["issues"][0]["path"]) == (400, [key])


@pytest.mark.parametrize("organization", ["café", "two words", "a\r\nb: c", "\x7f", "o" * 201])
async def test_an_organization_that_no_header_can_name_is_refused(town_on_fakes, organization: str) -> None:
    async with town_on_fakes() as town:
        start = start_request("pole-1", organizationId=organization)
        answers = [await town.client.post("/agents/start", json=start)]
        await town.start("pole-1")
        change = {"model": "m", "organizationId": organization}
        answers.append(await town.client.patch("/agents/pole-1/model", json=change))
        assert [(answer.status_code, answer.json()["issues"][0]["path"]) for answer in answers] == [
            (400, ["organizationId"])
        ] * 2


@pytest.mark.parametrize("variable", ["", "A=B", "A\x00B"])
async def test_a_variable_that_no_process_could_have_is_refused(town_on_fakes, variable: str) -> None:
    async with town_on_fakes() as town:
        answer = await town.client.post("/agents/start", json=start_request("pole-1", envVars={variable: "x"}))
        assert answer.status_code == 400


@pytest.mark.parametrize("branch", ["../../../etc", "..", "a/../../../../b"])
async def test_a_branch_that_leads_out_of_the_root_is_refused(town_on_fakes, branch: str) -> None:
    async with town_on_fakes() as town:
        answer = await town.client.post("/agents/start", json=start_request("pole-1", branch=branch))
        assert (answer.status_code in (400, 500), town.kilo.spawns, is_sentence(answer)) == (True, [], True)


REQUIRED = [name for name, field in StartAgentRequest.model_fields.items() if field.is_required()]


@pytest.mark.parametrize("field", REQUIRED)
async def test_a_start_without_a_required_key_names_the_key(town_on_fakes, field: str) -> None:
    alias = StartAgentRequest.model_fields[field].alias
    async with town_on_fakes() as town:
        answer = await town.client.post("/agents/start", json=start_request("pole-1", **{alias: ...}))
        assert (answer.status_code, [issue["path"] for issue in answer.json()["issues"]]) == (400, [[alias]])


async def test_unknown_keys_are_accepted_and_ignored(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        assert (await town.start("pole-1", newer={"deep": [1]}, status="running")).status_code == 201


@pytest.mark.parametrize("name", [name for name in NAMES if "<agent_id>" in name])
@pytest.mark.parametrize(
    "agent_id", ["nobody", "..", "%2e%2e", "%2e%2e%2fetc", "%00", "%0a", "%ff", LONG, "a%20b"]
)
async def test_an_agent_that_cannot_be_is_an_unknown_one(town_on_fakes, name: str, agent_id: str) -> None:
    async with town_on_fakes() as town:
        method, path = address(name, agent_id)
        body = {"prompt": "x", "model": "x", "systemPrompt": "x", "nudge_id": "x"} if method != "GET" else None
        answer = await town.client.request(method, path, json=body)
        if name.endswith("/events") and answer.status_code == 200:
            assert answer.json() == {"events": []}
        elif name.endswith("/stream-ticket") and answer.status_code == 200:
            assert answer.json()["ticket"]  # the agent need not exist yet
        else:
            assert (answer.status_code, is_sentence(answer)) == (404, True)
            assert len(answer.json()["error"]) < 200
            assert answer.json()["error"].isprintable()


MEGABYTE = b"x" * 1_000_000


async def forty_megabytes() -> AsyncIterator[bytes]:
    for _ in range(40):
        yield MEGABYTE


@pytest.mark.parametrize("name", NAMES_WITH_BODY)
@pytest.mark.parametrize("chunked", [False, True], ids=["announced", "chunked"])
async def test_forty_megabytes_are_too_much(town_on_fakes, name: str, *, chunked: bool) -> None:
    async with town_on_fakes() as town:
        answer = await send(town, name, forty_megabytes() if chunked else MEGABYTE * 40)
        assert (answer.status_code, answer.json()) == (413, {"error": "The request body is too large"})
        assert (await town.health())["status"] == "ok"


@pytest.mark.parametrize("name", [name for name in NAMES if name not in NAMES_WITH_BODY])
@pytest.mark.parametrize("chunked", [False, True], ids=["announced", "chunked"])
async def test_a_route_without_a_body_survives_forty_megabytes(town_on_fakes, name: str, *, chunked: bool) -> None:
    async with town_on_fakes() as town:
        answer = await send(town, name, forty_megabytes() if chunked else MEGABYTE * 40)
        assert answer.status_code in (200, 400, 404, 413)  # one wants to be told a branch
        await wait_all_tasks_blocked()  # the connection with the rest of the body is of no further use
        assert (await town.health())["status"] == "ok"


@pytest.mark.parametrize("name", NAMES)
async def test_another_method_is_told_which_ones_there_are(town_on_fakes, name: str) -> None:
    async with town_on_fakes() as town:
        _, path = address(name)
        answer = await town.client.request("PROPFIND", path)
        assert (answer.status_code, answer.json()) == (405, {"error": "Method not allowed on this route"})
        assert name.split(" ", maxsplit=1)[0] in answer.headers["allow"]


@pytest.mark.parametrize("path", ["/", "/nothing", "/agents/", "/agents/a/b/c", "/health/", "//", "/%2e%2e/x"])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS"])
async def test_an_unknown_route_is_not_found_in_json(town_on_fakes, method: str, path: str) -> None:
    async with town_on_fakes() as town:
        answer = await town.client.request(method, path)
        assert (answer.status_code, answer.json()) == (404, {"error": "Not found"})


@pytest.mark.parametrize("after", ["x", "-1", "1.5", "", "9" * 50, "²", "0x10", "null"])
async def test_a_bad_after_reads_as_zero(town_on_fakes, after: str) -> None:
    async with town_on_fakes() as town:
        await town.start("pole-1")
        events = (await town.client.get("/agents/pole-1/events", params={"after": after})).json()["events"]
        assert events[0]["id"] == 1


HEADERS = {
    "no JSON": "not json",
    "empty": "",
    "a list": "[]",
    "a number": "5",
    "null": "null",
    "NaN": "NaN",
    "deep lists": "[" * 20_000,
    "deep objects": '{"a":' * 5_000,
    "an endless number": '{"a": ' + "9" * 10_000 + "}",
    "wrong types": json.dumps({"kilocode_token": 5, "env_vars": [1], "git_auth": "x", "disable_ai_coauthor": []}),
    "deep in an object": '{"env_vars": ' + "[" * 20_000 + "}",
    "a lone surrogate": '{"kilocode_token": "\\ud800", "env_vars": {"A": "\\ud800", "\\ud800": "x"}}',
    "a NUL": '{"kilocode_token": "a\\u0000b", "env_vars": {"A": "a\\u0000b"}}',
    "a line end": '{"kilocode_token": "a\\nb", "gastown_api_url": "a\\nb"}',
}


@pytest.mark.parametrize("kind", HEADERS)
async def test_a_config_header_that_is_wrong_costs_nothing(town_on_fakes, kind: str) -> None:
    """Neither the request that brings it, nor any request or start after it."""
    async with town_on_fakes() as town:
        town.opened.town.services.credentials.replace_token(Secret("still-live"))
        for method, path in (("GET", "/health"), ("POST", "/sync-config"), ("GET", "/nowhere")):
            answer = await town.client.request(method, path, headers={"X-Town-Config": HEADERS[kind]})
            assert answer.status_code == (404 if path == "/nowhere" else 200)
        assert (await town.start("pole-1", headers={"X-Town-Config": HEADERS[kind]})).status_code == 201
        await town.opened.registry.flushed()
        assert [entry["agentId"] for entry in town.worker.registries[-1]] == ["pole-1"]


async def test_a_config_header_that_is_no_object_is_ignored_with_a_warning(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        before = town.opened.town.services.credentials.current
        await town.client.post("/sync-config", headers={"X-Town-Config": "[1]"})
        assert town.opened.town.services.credentials.current is before
        assert len(town.logged("town_config.ignored")) == 1


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
async def test_a_config_header_is_read_as_utf_8_and_else_as_latin_1(town_on_fakes, encoding: str) -> None:
    """Row 15: an orchestrator writes JSON as UTF-8 bytes; an old one as latin-1."""
    name = "Jörg 🤖" if encoding == "utf-8" else "Jörg"
    async with town_on_fakes() as town:
        header = json.dumps({"git_author_name": name}, ensure_ascii=False).encode(encoding)
        await town.client.post("/sync-config", headers={b"X-Town-Config": header})
        assert town.opened.town.services.credentials.current.town.git_author_name == name
