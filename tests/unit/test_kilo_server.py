"""A `kilo serve` process without kilo: shell scripts that say what it says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from gastown.kilo.errors import ServerDied
from gastown.kilo.server import launch
from gastown.kilo.spec import ServerSpec

SECRET = "canary-0123456789abcdef"


def spec(script: str, folder: Path) -> ServerSpec:
    env = {"PATH": os.environ["PATH"], "KILOCODE_TOKEN": SECRET}
    return ServerSpec(("sh", "-c", script), str(folder), str(folder), env)


async def test_a_server_that_prints_its_environment_and_dies_tells_no_secret(tmp_path: Path) -> None:
    """The last words of a start that failed are told to its caller, without the credentials that are in them."""
    with trio.fail_after(20), pytest.raises(ServerDied) as died:
        async with launch(spec('echo "token $KILOCODE_TOKEN" >&2; exit 1', tmp_path)):
            pass
    assert "token" in str(died.value)
    assert SECRET not in str(died.value) + repr(died.value.stderr)


async def test_a_server_that_listens_gets_term_and_seconds_to_leave(tmp_path: Path) -> None:
    """Leaving the block asks the process to end, and lets it save what it has."""
    script = (
        "trap 'sleep 0.3; echo saved > saved; exit 0' TERM; "
        "echo 'kilo server listening on http://127.0.0.1:4096'; while :; do sleep 0.02; done"
    )
    with trio.fail_after(20):
        async with launch(spec(script, tmp_path)) as running:
            assert running.endpoint.url == "http://127.0.0.1:4096"
    assert (tmp_path / "saved").read_text() == "saved\n"
