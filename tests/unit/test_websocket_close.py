"""A ping that meets our close, whose pong httpx2 may not send any more."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from wsproto.utilities import LocalProtocolError

from gastown.asgi.websocket_close import closing_over_pings

REFUSED = LocalProtocolError("Event Pong(payload=b'') cannot be sent in state ConnectionState.LOCAL_CLOSING.")


@asynccontextmanager
async def connection(*failures: Exception) -> AsyncIterator[str]:
    """What httpx2 does: a failure of its own task comes out as a group at the end of the block."""
    try:
        yield "session"
    except LocalProtocolError as error:
        raise ExceptionGroup("of a nursery", [error, *failures]) from None
    if failures:
        raise ExceptionGroup("of a nursery", [ExceptionGroup("of a nursery", list(failures))])


async def test_a_pong_that_is_refused_after_the_block_is_no_failure():
    async with closing_over_pings(connection(REFUSED)) as session:
        assert session == "session"


async def test_another_failure_beside_it_comes_out():
    with pytest.RaisesGroup(LocalProtocolError, OSError, flatten_subgroups=True):
        async with closing_over_pings(connection(REFUSED, OSError("gone"))):
            pass


async def test_what_fails_inside_the_block_comes_out():
    with pytest.RaisesGroup(LocalProtocolError, LocalProtocolError):
        async with closing_over_pings(connection(REFUSED)):
            raise LocalProtocolError("of the block")
