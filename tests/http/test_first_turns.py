"""The first turn of a start: how the start learns of it, and when the next server may begin."""

from __future__ import annotations

from functools import partial

import pytest
import trio

from gastown.testing.kilo import Script
from gastown.testing.launchers import FakeLauncher

pytestmark = pytest.mark.virtual_time

SLOW_TO_SPEAK = partial(FakeLauncher, script=Script(word_seconds=20, turn_seconds=100))


async def test_a_turn_whose_opening_was_not_heard_is_found_by_asking(town_on_fakes) -> None:
    """When `session.turn.open` is lost, the start asks for the status, and answers before the first word."""
    async with town_on_fakes(kilo=SLOW_TO_SPEAK) as town:
        start = town.start_soon("pole-1")
        await trio.sleep(2.25)  # the prompt is sent, its turn is not open yet
        kilo = town.kilo.server("pole-1").kilo
        assert len(kilo.prompts) == 1
        kilo.silent = True
        assert (await start.result()).status_code == 201
        assert start.seconds < 10
        assert len(kilo.prompts) == 1


async def test_the_next_server_begins_when_a_turn_is_open(town_on_fakes) -> None:
    """A start gives its slot back when its turn opens, and keeps no other start waiting for its first word."""
    more = {"gastown_spawn_slots": 1, "gastown_first_word_seconds": 30.0}
    async with town_on_fakes(kilo=SLOW_TO_SPEAK, **more) as town:
        starts = [town.start_soon("pole-1"), town.start_soon("pole-2")]
        for start in starts:
            assert (await start.result()).status_code == 201
        first, second = town.kilo.spawns
        assert second.began - first.began < 3
        assert starts[0].seconds > 20
