"""A town that goes up and down, with a small process that stands for its container."""

from __future__ import annotations

import os
import signal
import stat
import sys
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
import trio

from gastown.hall.cli.boot import UpOptions
from gastown.hall.cli.bringup import CONTROL_TOKEN, bring_up
from gastown.hall.cli.screen import Screen
from gastown.hall.drivers.process import ContainerDied
from gastown.hall.hall import HallOptions, open_hall

# Says that it drains, to the orchestrator, and ends. It never answers /health.
REPORTS_ITS_DRAIN = """
import json, os, signal, sys, time, urllib.request
def drain(*_):
    base = os.environ["GASTOWN_API_URL"] + "/api/towns/" + os.environ["GASTOWN_TOWN_ID"]
    bearer = {"Authorization": "Bearer " + os.environ["GASTOWN_CONTAINER_TOKEN"]}
    urllib.request.urlopen(urllib.request.Request(base + "/container-eviction", b"{}", bearer), timeout=5)
    sys.exit(0)
signal.signal(signal.SIGTERM, drain)
print("ready", flush=True)
while True: time.sleep(0.05)
"""
DIES = "import sys; sys.exit('out of memory')"


def options(folder: Path, script: str) -> UpOptions:
    return UpOptions(
        hall=HallOptions(data_dir=folder),
        environment={"PATH": os.environ["PATH"]},
        port=0,
        command=(sys.executable, "-c", script),
    )


# Says what it was given, and then is what REPORTS_ITS_DRAIN is.
TELLS = """
import os, sys
print("token", os.environ.get("GASTOWN_CONTROL_TOKEN"), "arguments", sys.argv[1:], flush=True)
"""


async def interrupt_when_ready(folder: Path) -> None:
    log = trio.Path(folder / "serve.log")
    with trio.fail_after(20):
        while True:  # a file of another process: there is nothing to wait on
            if await log.exists() and "ready" in await log.read_text():
                signal.raise_signal(signal.SIGTERM)
                return
            await trio.sleep(0.01)


async def test_the_hall_hears_the_last_words_of_the_container_that_an_interrupt_ends(tmp_path: Path) -> None:
    out = StringIO()
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(interrupt_when_ready, tmp_path)
            code = await bring_up(options(tmp_path, REPORTS_ITS_DRAIN), Screen(out))
    assert (code, out.getvalue().splitlines()[-1]) == (0, "the town is down")
    async with open_hall(HallOptions(data_dir=tmp_path)) as hall:
        assert [event.event for event in await hall.store.events("town")] == ["container.eviction"]


async def test_a_container_that_dies_takes_the_town_down_with_its_reason(tmp_path: Path) -> None:
    died = pytest.RaisesExc(ContainerDied, match="out of memory")
    with trio.fail_after(30), pytest.RaisesGroup(died, flatten_subgroups=True):
        await bring_up(options(tmp_path, DIES), Screen(StringIO()))


async def up_and_down(folder: Path, **variables: str) -> tuple[str, str, str]:
    """The token that a container was given, that of the file while it ran, and what was on the screen."""
    out, file = StringIO(), trio.Path(folder / CONTROL_TOKEN)
    told = options(folder, TELLS + REPORTS_ITS_DRAIN)
    told = replace(told, environment={**told.environment, **variables})
    read: list[str] = []

    async def look() -> None:
        log = trio.Path(folder / "serve.log")
        while not await log.exists() or "ready" not in await log.read_text():
            await trio.sleep(0.01)  # a file of another process: there is nothing to wait on
        assert stat.S_IMODE((await file.stat()).st_mode) == 0o600
        read.append((await file.read_text()).strip())
        signal.raise_signal(signal.SIGTERM)

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            await bring_up(told, Screen(out))
    assert not await file.exists()
    words = (await trio.Path(folder / "serve.log").read_text()).split()
    return words[1], read[0], out.getvalue()


async def test_each_container_gets_a_token_of_its_own_which_a_file_holds_while_it_runs(tmp_path: Path) -> None:
    given = []
    for name in ("first", "second"):
        token, kept, screen = await up_and_down(tmp_path / name)
        assert (kept, len(token) >= 32, token in screen) == (token, True, False)
        assert str(tmp_path / name / CONTROL_TOKEN) in screen
        given.append(token)
    assert given[0] != given[1]


async def test_a_token_that_the_caller_has_set_is_the_containers(tmp_path: Path) -> None:
    mine = "mine-" * 8
    token, kept, screen = await up_and_down(tmp_path, GASTOWN_CONTROL_TOKEN=mine)
    assert (token, kept, mine in screen) == (mine, mine, False)


async def test_no_secret_is_on_the_screen(tmp_path: Path) -> None:
    out = StringIO()
    town = options(tmp_path, DIES)
    with pytest.RaisesGroup(ContainerDied, flatten_subgroups=True):
        await bring_up(town, Screen(out))
    async with open_hall(HallOptions(data_dir=tmp_path)) as hall:
        assert (await hall.store.jwt_secret("town")).reveal() not in out.getvalue()
    assert "eyJ" not in out.getvalue()
