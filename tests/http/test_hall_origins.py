"""What a web page, or a name that was made to resolve to this machine, gets from the hall: nothing."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from gastown.contract.secret import Secret
from gastown.hall.api.context import HallContext, StandIn
from gastown.hall.app import create_app
from gastown.hall.hall import Hall, HallOptions, open_hall


@pytest.fixture
async def hall(tmp_path: Path) -> AsyncIterator[Hall]:
    async with open_hall(HallOptions(data_dir=tmp_path / "oak", town_id="oak")) as hall:
        yield hall


@pytest.fixture
async def client(hall: Hall) -> AsyncIterator[httpx2.AsyncClient]:
    bearer = {"Authorization": f"Bearer {(await hall.container_token()).reveal()}"}
    async with httpx2.AsyncClient(base_url=hall.url, headers=bearer, trust_env=False) as client:
        yield client


def addresses(hall: Hall) -> set[tuple[str, str]]:
    """A request for every route that a hall serves."""
    context = HallContext(store=hall.store, now=hall.now, stand_in=StandIn(token=Secret("stand-in")))
    rules = create_app(context).url_map.iter_rules()
    return {(method, _filled(rule.rule)) for rule in rules for method in rule.methods or ()}


def _filled(rule: str) -> str:
    named = re.sub(r"<any\('([^']+)'[^>]*>", r"\1", rule.replace("<town_id>", "oak"))
    return re.sub(r"<[^>]+>", "x", named)


FOREIGN = [
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://localhost:3000"},
    {"Host": "evil.example"},
    {"Host": "evil.example:8080", "Origin": "http://evil.example:8080"},
]


@pytest.mark.parametrize("headers", FOREIGN)
async def test_no_route_is_open_to_it(hall: Hall, client: httpx2.AsyncClient, headers: dict[str, str]) -> None:
    routes = addresses(hall)
    assert len(routes) > 60
    for method, path in routes:
        answer = await client.request(method, path, headers=headers)
        assert answer.status_code == 403
        if method != "HEAD":
            assert (answer.json()["success"], answer.json().keys()) == (False, {"success", "error"})


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:1234"])
async def test_programs_of_this_machine_are_served(client: httpx2.AsyncClient, host: str) -> None:
    answer = await client.get("/api/towns/oak/mayor-id", headers={"Host": host})
    assert (answer.status_code, answer.json()["success"]) == (200, True)


async def test_without_a_token_only_what_is_no_secret_is_told(hall: Hall) -> None:
    async with httpx2.AsyncClient(base_url=hall.url, trust_env=False) as stranger:
        told = {
            (method, path)
            for method, path in addresses(hall)
            if method not in ("HEAD", "OPTIONS") and (await stranger.request(method, path)).status_code != 401
        }
    assert told == {("GET", "/health"), ("GET", "/openapi.json"), ("GET", "/api/openrouter/models")}
