"""GASTOWN_GATEWAY_URL: a gateway with OpenAI's paths in the place of Kilo's, as the broker asks it."""

from __future__ import annotations

import pytest

from tests.http.test_broker import CHAT, Bench, bench

__all__ = ["bench"]  # the fixture

pytestmark = pytest.mark.virtual_time


async def test_a_gateway_of_ones_own_is_asked_at_openais_paths(bench: Bench) -> None:
    """With the town's token, and without what is Kilo's; what it cannot have is refused, and goes nowhere else."""
    bench.upstreams.own_gateway_url = "http://gateway/v1"
    client = bench.client(bench.admit())
    await client.post(CHAT, json={}, headers={"X-KILOCODE-ORGANIZATIONID": "org-9"})
    await client.get("/api/openrouter/models")
    for method, path in (("GET", "/api/user"), ("GET", "/api/defaults"), ("POST", "/api/exa/search")):
        assert (await client.request(method, path)).status_code == 404
    assert [asked.path for asked in bench.gateway] == ["/v1/chat/completions", "/v1/models"]
    assert {asked.headers["authorization"] for asked in bench.gateway} == {"Bearer canary-gateway-1"}
    assert not any("x-kilocode-organizationid" in asked.headers for asked in bench.gateway)
