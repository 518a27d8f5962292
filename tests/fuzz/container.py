"""A town on fakes behind a real socket, at the pace of real time: something to throw requests at.

A program: prints its address, and ends when its standard input does.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import trio
import trio.testing

from gastown.contract.secret import Secret
from gastown.control.app import create_app
from gastown.control.server import listen_on, serve_app
from gastown.testing.town import open_fake_town

AGENTS = ("mayor-1", "pole-1")
TOKEN = "fuzz-control-token-that-is-long-enough"
"""What its control port asks for; schemathesis.toml has it, too."""
BEARER = {"Authorization": f"Bearer {TOKEN}"}


async def serve(folder: Path) -> None:
    async with open_fake_town(folder, gastown_control_token=Secret(TOKEN)) as town, trio.open_nursery() as nursery:
        for agent_id in AGENTS:
            answer = await town.start(agent_id, headers=BEARER)
            assert answer.status_code == 201, answer.text
        listener = listen_on("127.0.0.1", 0)
        await nursery.start(serve_app, create_app(town.opened.town), listener, trio.Event())
        sys.stdout.write(f"http://127.0.0.1:{listener.getsockname()[1]}\n")
        sys.stdout.flush()
        async for _ in trio.wrap_file(sys.stdin):
            pass
        sys.stderr.write(town.log.getvalue())
        nursery.cancel_scope.cancel(reason="the search is over")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="gastown-fuzz-") as name:
        # A clock of tests, as the fakes want it, that runs as fast as the world does.
        trio.run(serve, Path(name), clock=trio.testing.MockClock(rate=1.0))
