"""The description of the control API."""

from __future__ import annotations

import re

import pytest
from pydantic import BaseModel

from gastown.contract.access import Scope
from gastown.contract.agents import PublicAgent, StartAgentRequest
from gastown.contract.identifiers import is_identifier
from gastown.control.app import ROUTES, SOCKETS, create_app

pytestmark = pytest.mark.virtual_time


def _names(model: type[BaseModel]) -> set[str]:
    return {str(field.alias) for field in model.model_fields.values()}


async def test_it_lists_every_route_that_is_served_and_no_other(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        served = {
            (method, re.sub(r"<(\w+)>", r"{\1}", rule.rule))
            for rule in create_app(town.opened.town).url_map.iter_rules()
            if not rule.websocket
            for method in rule.methods - {"HEAD", "OPTIONS"}
        }
        described = (await town.client.get("/openapi.json")).json()
        listed = {(method.upper(), path) for path, methods in described["paths"].items() for method in methods}
        assert listed == served - {("GET", "/openapi.json")}


async def test_its_description_tells_of_every_websocket_that_is_served_and_of_no_other(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        rules = create_app(town.opened.town).url_map.iter_rules()
        described = (await town.client.get("/openapi.json")).json()["info"]["description"]
    served = {rule.rule for rule in rules if rule.websocket}
    assert set(re.findall(r"- `([^`]+)`: \w", described)) == served == {socket.path for socket in SOCKETS}


async def test_every_route_says_what_it_does_what_it_takes_and_what_it_answers(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        paths = (await town.client.get("/openapi.json")).json()["paths"]
    for route in ROUTES:
        described = paths[re.sub(r"<(\w+)>", r"{\1}", route.path)][route.method.lower()]
        assert described["summary"]
        assert ("requestBody" in described) == (route.body is not None)
        assert {str(status) for status in route.answers} | {"400", "500", "default"} <= described[
            "responses"
        ].keys()


async def test_a_body_is_required_of_every_route_that_refuses_to_be_without(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await town.start("pole-1")
        paths = (await town.client.get("/openapi.json")).json()["paths"]
        required = {
            (method, path): operation["requestBody"]["required"]
            for path, methods in paths.items()
            for method, operation in methods.items()
            if "requestBody" in operation
        }
        refuses = {}
        for method, path in required:
            address = path.replace("{agent_id}", "pole-1").replace("{pty_id}", "pty_1")
            refuses[method, path] = (await town.client.request(method.upper(), address)).status_code == 400
        assert refuses == required


def test_the_pattern_of_an_identifier_allows_what_the_parser_allows() -> None:
    schema = StartAgentRequest.model_json_schema()["properties"]["agentId"]
    for value in (
        "pole-1",
        "a",
        "_x",
        "a.b:c@d",
        "..",
        "a..b",
        "-a",
        ".a",
        "",
        "a b",
        "é",
        "a\n",
        "x" * 128,
        "x" * 129,
    ):
        told = len(value) <= schema["maxLength"] and re.fullmatch(schema["pattern"], value) is not None
        assert told == is_identifier(value), value


async def test_every_route_says_which_scope_a_token_needs_and_that_there_are_refusals(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        described = (await town.client.get("/openapi.json")).json()
    assert described["components"]["securitySchemes"] == {"bearer": {"type": "http", "scheme": "bearer"}}
    for route in ROUTES:
        operation = described["paths"][re.sub(r"<(\w+)>", r"{\1}", route.path)][route.method.lower()]
        locked = route.scope is not Scope.OPEN
        assert operation["security"] == ([{"bearer": [route.scope.word]}] if locked else [])
        assert {"401", "403"}.issubset(operation["responses"]) is locked


async def test_every_reference_to_a_model_can_be_followed(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        answer = await town.client.get("/openapi.json")
    models = answer.json()["components"]["schemas"].keys()
    assert set(re.findall(r'"#/components/schemas/([^"]+)"', answer.text)) == set(models)


async def test_the_names_in_the_models_are_those_on_the_wire(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        start = (await town.client.get("/openapi.json")).json()["paths"]["/agents/start"]["post"]
    asked = start["requestBody"]["content"]["application/json"]["schema"]
    answered = start["responses"]["201"]["content"]["application/json"]["schema"]
    assert set(asked["properties"]) == _names(StartAgentRequest)
    assert set(asked["required"]) == {
        field.alias for field in StartAgentRequest.model_fields.values() if field.is_required()
    }
    assert set(answered["properties"]) == _names(PublicAgent)


async def test_it_is_the_third_version_of_openapi(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        described = (await town.client.get("/openapi.json")).json()
    assert (described["openapi"][:2], described["info"]["title"]) == ("3.", "Gastown control API")
