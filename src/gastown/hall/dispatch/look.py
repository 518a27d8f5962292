"""Seeing which commit a branch has that was handed in, so that an approval is of that one."""

from __future__ import annotations

import logging

import trio

from gastown.contract.git import Changes
from gastown.hall.control_client import ControlCallFailed, ControlClient
from gastown.hall.dispatch.requests import setup_request
from gastown.hall.domain.errors import BoardError
from gastown.hall.domain.town import town_config
from gastown.hall.hall import Hall
from gastown.hall.reconcile import facts
from gastown.hall.reconcile.actions import Look
from gastown.hall.store.lane import StoreBusy

__all__ = ["changes_of", "see_head"]

_PAUSES = (2.0, 10.0, 60.0, 300.0)
"""Seconds between the tries. After the last one an approval is of whichever commit the branch has then."""
_LOGGER = "gastown.hall.dispatch"


async def see_head(hall: Hall, control: ControlClient, look: Look) -> None:
    """Ask the container, a bounded number of times, and tell the reconciler. Raises no `Exception`."""
    for pause in (*_PAUSES, None):
        try:
            head = await _head(hall, control, look)
            fact = facts.HeadSeen(bead_id=look.bead_id, hand_in_id=look.hand_in_id, head=head)
            await hall.store.tell(hall.town_id, fact)
        except (ControlCallFailed, BoardError, StoreBusy, LookupError) as error:
            logging.getLogger(_LOGGER).warning("The commit of %s was not seen: %s", look.branch, error)
        except Exception:  # a boundary: a bug in looking at one branch ends no other work
            logging.getLogger(_LOGGER).exception("The commit of %s was not seen", look.branch)
        else:
            return
        if pause is not None:
            await trio.sleep(pause)


async def _head(hall: Hall, control: ControlClient, look: Look) -> str:
    return (await changes_of(hall, control, look.rig_id, look.branch)).head


async def changes_of(hall: Hall, control: ControlClient, rig_id: str, branch: str) -> Changes:
    """What a branch of a rig would bring; ControlCallFailed, and LookupError for an unknown rig."""
    town = await hall.town()
    rig = town.rig(rig_id)
    try:
        return await control.changes(rig.rig_id, branch, rig.default_branch)
    except ControlCallFailed as error:
        if error.status != 404:
            raise
    # It may be a container that has not heard of the rig yet.
    await control.set_up(setup_request(town, rig), town_config(town, hall.url))
    return await control.changes(rig.rig_id, branch, rig.default_branch)
