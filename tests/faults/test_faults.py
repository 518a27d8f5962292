"""Each fault of the table alone, then random schedules of them. Hours of virtual time in seconds."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from gastown.testing.clock import in_virtual_time, threads_in_place
from gastown.testing.faults import FAULTS, open_lab
from gastown.testing.town import open_fake_town


async def suffer(open_town, schedule: list[tuple[str, float]]) -> None:
    """Let faults strike one after the other, each heal by itself, and see what is left of the town."""
    async with open_lab(open_town) as lab:
        async with trio.open_nursery() as nursery:
            for name, pause in schedule:

                async def happen(fault=FAULTS[name]) -> None:
                    await fault.strike(lab)
                    await trio.sleep(fault.seconds)
                    await fault.heal(lab)

                nursery.start_soon(happen, name=name)
                await trio.sleep(pause)
        for name, _ in schedule:  # a fault may have struck after another of its kind was healed
            await FAULTS[name].heal(lab)
        await lab.recover()
        await lab.check()


@pytest.mark.virtual_time
@pytest.mark.parametrize("name", FAULTS, ids=[fault.sentence for fault in FAULTS.values()])
async def test_a_town_survives_when(town_on_fakes, name: str) -> None:
    await suffer(town_on_fakes, [(name, 0)])


SCHEDULES = st.lists(
    st.tuples(st.sampled_from(sorted(set(FAULTS) - {"flood"})), st.sampled_from([0.0, 0.5, 3.0, 45.0, 400.0])),
    min_size=2,
    max_size=5,
)


@given(schedule=SCHEDULES)
@settings(
    max_examples=6,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
)
def test_a_town_survives_any_sequence_of_faults(schedule: list[tuple[str, float]]) -> None:
    with tempfile.TemporaryDirectory() as folder, threads_in_place():
        in_virtual_time(partial(suffer, partial(open_fake_town, Path(folder)), schedule))
