"""`/metrics` of a town on real parts: what no fake can say."""

from __future__ import annotations

import json

import httpx2
import pytest

from gastown.testing.scrape import Scrape
from tests.kilo.town import KILO, RealTown, eventually, real_town

pytestmark = pytest.mark.kilo


async def scraped(town: RealTown) -> Scrape:
    async with httpx2.AsyncClient(base_url=town.url, headers=town.bearer) as client:
        return Scrape((await client.get("/metrics")).text)


async def test_a_mayors_first_turn_on_real_parts_is_in_the_metrics_and_nothing_of_it_is_unnamed(tmp_path):
    async with real_town(tmp_path, {"turn_seconds": 0.1}) as town:
        await town.prewarmed()
        await town.hall.start_mayor(town.dispatch, "Hello.")

        async def turn_over() -> Scrape | None:
            seen = await scraped(town)
            return seen if seen("agent_conditions", condition="idle") == 1 else None

        seen: Scrape = await eventually(turn_over)
        version = json.loads((KILO.resolve().parents[1] / "package.json").read_text())["version"]
        assert seen("build_info", kilo_version=version) == 1
        assert seen("agent_starts_total", role="mayor", origin="request", outcome="running") == 1
        assert seen("server_spawns_total", outcome="ready") == seen("server_spawns_total") == 1
        assert 100e6 < seen("server_resident_memory_bytes", role="mayor") < 4e9
        assert seen("broker_requests_total", destination="gateway", outcome="2xx") > 0
        assert seen("broker_first_byte_seconds_count", destination="gateway") > 0
        assert seen("event_loop_lag_seconds_count") > 0
        # A word that the table does not know is one that somebody forgot to write into it.
        assert seen("worker_calls_total") > 0
        assert seen("worker_calls_total", route="other") == 0
        assert seen("agent_start_phase_duration_seconds_count", phase="other") == 0
