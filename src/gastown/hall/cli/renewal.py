"""Giving the container its next token in time, by the wall clock: Trio's stands still while a machine sleeps."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import NoReturn

import trio

__all__ = ["renew"]

_LOOK_SECONDS = 60


async def renew(
    now: Callable[[], datetime], give: Callable[[], Awaitable[bool]], *, given: datetime, every: timedelta
) -> NoReturn:
    """Call `give` when `every` has passed since it last succeeded, at first since `given`; until cancelled.

    A call that fails (False) is repeated a minute later. After the machine has slept, the call comes at most a
    minute after it woke up.
    """
    while True:
        await trio.sleep(_LOOK_SECONDS)
        moment = now()
        if moment - given >= every and await give():
            given = moment
