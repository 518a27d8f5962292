"""Telling on the screen which repository of the town cannot be had, and why."""

from __future__ import annotations

import trio

from gastown.hall.cli.boot import Boot
from gastown.hall.control_client import ControlCallFailed

__all__ = ["watch_rigs"]

_LOOK_SECONDS = 1.0
_PATIENCE_SECONDS = 120


async def watch_rigs(boot: Boot, settled: trio.Event) -> None:
    """Name each repository that cannot be had, or whose branch is not there. Sets `settled` and returns when all
    are settled, or when nothing has begun to fetch them for two minutes.
    """
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
        for rig in rigs:
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
