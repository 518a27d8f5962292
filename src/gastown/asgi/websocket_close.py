"""The end of a websocket that we opened: a peer's ping may meet our close, and is no failure.

httpx2 2.16 answers each ping in a task of its own, also on a connection that has begun to close, where wsproto
refuses the pong. The refusal then comes out of a block that has done all of its work.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeVar

from wsproto.utilities import LocalProtocolError

__all__ = ["closing_over_pings"]

T = TypeVar("T")


@asynccontextmanager
async def closing_over_pings(opening: AbstractAsyncContextManager[T]) -> AsyncIterator[T]:
    """What `opening` gives. Only once the block has ended by itself does a refused pong count for nothing."""
    has_ended = False
    try:
        async with opening as session:
            yield session
            has_ended = True
    except BaseExceptionGroup as group:
        others = group.split(LocalProtocolError)[1]
        if has_ended and others is None:
            return
        raise
