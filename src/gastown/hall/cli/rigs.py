"""Telling on the screen which repository of the town cannot be had, and why."""

from __future__ import annotations

import logging
from collections.abc import Set as AbstractSet

import trio

from gastown.hall.app import LOGGER
from gastown.hall.cli.boot import Boot
from gastown.hall.control_client import ControlCallFailed
from gastown.hall.dispatch.requests import setup_request
from gastown.hall.domain.town import town_config
from gastown.hall.store.lane import StoreBusy

__all__ = ["set_up_rig", "watch_rigs"]

_LOOK_SECONDS = 1.0
_PATIENCE_SECONDS = 120


async def set_up_rig(boot: Boot, rig_id: str) -> None:
    """Name a new repository to the container, which fetches it at once, and say what is wrong with it."""
    try:
        town = await boot.hall.town()
        await boot.control.set_up(setup_request(town, town.rig(rig_id)), town_config(town, boot.hall.url))
    except (ControlCallFailed, LookupError, StoreBusy) as error:  # the container hears of it with its first work
        logging.getLogger(LOGGER).warning("the container has not heard of rig %s yet: %s", rig_id, error)
        return
    boot.screen.line(f"rig {rig_id} is added")
    await watch_rigs(boot, trio.Event(), {rig_id})


async def watch_rigs(boot: Boot, settled: trio.Event, names: AbstractSet[str] | None = None) -> None:
    """Name each repository that cannot be had, or whose branch is not there: of those `names`, or of all. Sets
    `settled` and returns when all are settled, or when nothing has begun to fetch them for two minutes.
    """
    if names is None:
        names = {rig.rig_id for rig in (await boot.hall.town()).rigs}
    told: set[str] = set()
    ready: set[str] = set()
    last_word = trio.current_time()
    while names - told - ready and trio.current_time() - last_word < _PATIENCE_SECONDS:
        await trio.sleep(_LOOK_SECONDS)
        try:
            rigs = (await boot.control.health()).rigs or ()
        except ControlCallFailed:  # it does not answer yet, or no more
            continue
        for rig in (one for one in rigs if one.rig_id in names):
            if rig.state == "working":
                last_word = trio.current_time()
            elif rig.state == "ready" and rig.browse is not None:
                if rig.notice and rig.rig_id not in ready:
                    boot.screen.line(f"rig {rig.rig_id}: {rig.notice}")
                ready.add(rig.rig_id)
            elif rig.state == "failed" and rig.rig_id not in told:
                told.add(rig.rig_id)
                boot.screen.line(f"rig {rig.rig_id} cannot be used: {rig.error or 'no reason given'}")
    settled.set()
