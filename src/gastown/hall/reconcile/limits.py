"""How often something is tried, and how long is waited in between."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from datetime import timedelta
from enum import StrEnum
from types import MappingProxyType

__all__ = ["LIMITS", "PROBE_MOST", "PROBE_PAUSE", "TRIPS_AT", "Cause", "pause"]


class Cause(StrEnum):
    """What may go wrong with a piece of work, each with a limit of its own."""

    START = "start"
    """The container did not start the agent."""
    UNFINISHED = "unfinished"
    """The agent ended without handing its work in."""
    REVIEW = "review"
    """A reviewer, or a person, asked for changes."""
    CONFLICT = "conflict"
    CHECKS = "checks"
    LOST = "lost"
    """Its container has gone while it worked. Often it is not the work's fault; ten times it is."""
    MERGE = "merge"
    """The merge failed for another reason: a remote that cannot be reached, a branch that is protected."""


LIMITS: Mapping[Cause, int] = MappingProxyType(
    {
        Cause.START: 5,
        Cause.UNFINISHED: 3,
        Cause.REVIEW: 3,
        Cause.CONFLICT: 3,
        Cause.CHECKS: 3,
        Cause.LOST: 10,
        Cause.MERGE: 5,
    }
)
"""How often each may happen before a person is asked."""

_PAUSES = (2.0, 30.0, 120.0, 600.0)
"""Seconds before the second try, the third, …: five starts that fail in a row take a quarter of an hour."""
_SPREAD = 0.2

TRIPS_AT = 4
"""Failed starts of different pieces of work in a row after which nothing but one probe is started."""
PROBE_PAUSE = timedelta(minutes=1)
PROBE_MOST = timedelta(minutes=30)


def pause(failures: int, seed: str) -> timedelta:
    """How long to wait after that many failures in a row: spread by up to 20 %, always the same for one `seed`."""
    seconds = _PAUSES[min(failures, len(_PAUSES)) - 1]
    share = zlib.crc32(f"{seed}/{failures}".encode()) / 0xFFFFFFFF
    return timedelta(seconds=seconds * (1 - _SPREAD + 2 * _SPREAD * share))
