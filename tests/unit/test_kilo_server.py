"""A `kilo serve` process without kilo: shell scripts that say what it says."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from gastown.concurrency.processes import MARK
from gastown.concurrency.strays import strays_at
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


LISTENS = "echo 'kilo server listening on http://127.0.0.1:4096'; while :; do sleep 0.02; done"


@contextmanager
def server_of(owner: int, home: Path) -> Iterator[subprocess.Popen[bytes]]:
    """What stands for a kilo that another control server has started, and that takes no TERM."""
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "KILO_PARENT_PID": str(owner), MARK: "abc"}
    command = ["sh", "-c", "trap '' TERM; echo; while :; do sleep 0.02; done"]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield process
        finally:
            process.kill()


async def test_what_a_killed_control_server_left_at_a_home_is_ended_before_a_server_starts(tmp_path: Path) -> None:
    """kill -9 of `serve`, and a kilo that outlives it: two of them would write one database."""
    killed = await trio.run_process(["sh", "-c", "echo $$"], capture_stdout=True)
    with server_of(int(killed.stdout), tmp_path) as stray, trio.fail_after(30):
        async with launch(spec(LISTENS, tmp_path)):
            assert stray.poll() == -signal.SIGKILL


def test_a_number_that_is_another_process_by_now_is_no_owner(tmp_path: Path) -> None:
    """After the restart of a container the new control server often has the pid of the old one."""
    with server_of(0, tmp_path) as first, subprocess.Popen(["sleep", "60"]) as later:
        env = {"HOME": str(tmp_path), "KILO_PARENT_PID": str(later.pid), MARK: "abc", "PATH": os.environ["PATH"]}
        assert first.pid in strays_at(str(tmp_path))
        with subprocess.Popen(["sleep", "60"], env=env) as owned:
            assert owned.pid not in strays_at(str(tmp_path))
            owned.kill()
        later.kill()


@pytest.mark.parametrize("where", ["another home", "a living owner"])
async def test_what_another_control_server_runs_is_let_alone(tmp_path: Path, where: str) -> None:
    owner = os.getpid() if where == "a living owner" else 0
    home = tmp_path if where == "a living owner" else tmp_path / "other"
    with server_of(owner, home) as other, trio.fail_after(30):
        async with launch(spec(LISTENS, tmp_path)):
            assert other.poll() is None
