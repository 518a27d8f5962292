"""How the commands end: as real processes, told by signals, and with readers of their output that leave."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

CONTAINER = """
import os, signal, sys, time
def drain(*_):
    print("drained", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, drain)
print("ready", os.getpid(), flush=True)
while True: time.sleep(0.05)
"""

# `gastown up` with a small process in place of its container. It never answers /health.
UP = """
import sys
from functools import partial
from gastown.hall.cli import boot, up
up.UpOptions = partial(boot.UpOptions, command=(sys.executable, "-c", sys.argv.pop(1)))
up._drain_seconds = lambda env: 10.0
from gastown.cli import main
sys.exit(main())
"""

# Sends SIGINT to the process when it imports the module of that name.
INTERRUPTS = """
import os, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["INTERRUPT_AT"]:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
"""


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("KILO", "GASTOWN"))}
    return kept | more


@pytest.mark.parametrize(
    ("command", "module"),
    [
        (("up",), "typing"),
        (("up",), "argparse"),
        (("up",), "trio"),
        (("hall",), "quart"),
        (("serve",), "structlog"),
        (("openapi",), "gastown.control.openapi"),
    ],
)
def test_ctrl_c_while_a_command_still_imports_is_one_line_and_130(
    tmp_path: Path, command: tuple[str, ...], module: str
) -> None:
    (tmp_path / "sitecustomize.py").write_text(INTERRUPTS)
    done = subprocess.run(
        [sys.executable, "-m", "gastown", *command],
        env=environment(PYTHONPATH=str(tmp_path), INTERRUPT_AT=module, HOME=str(tmp_path)),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "gastown: interrupted\n")


@pytest.mark.parametrize("arguments", [("openapi",), ("up", "--help")])
def test_a_reader_that_leaves_is_no_error(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "gastown", *arguments],
            env=environment(),
            cwd=tmp_path,
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_full_disk_below_the_output_is_one_line(tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "gastown", "openapi"],
            env=environment(),
            cwd=tmp_path,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, "gastown: cannot write to stdout: No space left on device\n")


@asynccontextmanager
async def up(
    data: Path, output: int = subprocess.DEVNULL, prefix: tuple[str, ...] = ()
) -> AsyncIterator[tuple[trio.Process, trio.Path]]:
    """A `gastown up` in a session of its own whose container runs, and the container's log.

    It is killed at the end of the block should it still run.
    """
    log = trio.Path(data / "serve.log")
    process = await trio.lowlevel.open_process(
        [*prefix, sys.executable, "-c", UP, CONTAINER, "up", "--dir", str(data), "--port", "0", "--message", "Hi"],
        env=environment(),
        cwd=data.parent,  # no repository, which `up` would name
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output if output != subprocess.DEVNULL else subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        with trio.fail_after(60):
            while not (await log.exists() and "ready" in await log.read_text()):
                await trio.sleep(0.02)  # a file of another process: there is nothing to wait on
        yield process, log
    finally:
        with trio.move_on_after(30, shield=True):
            process.kill()
            await process.wait()


async def code_of(process: trio.Process, *told: signal.Signals) -> int:
    """What a process exits with once it is `told`."""
    for number in told:
        process.send_signal(number)
    with trio.fail_after(30):
        return await process.wait()


async def test_the_end_of_its_terminal_ends_a_town_in_order(tmp_path: Path) -> None:
    """The kernel takes the terminal away, and kernel and shell both say so: the container drains, unhurried."""
    ours, theirs = os.openpty()
    async with up(tmp_path / "town", theirs) as (process, log):
        os.close(theirs)
        os.close(ours)
        assert await code_of(process, signal.SIGHUP, signal.SIGHUP) == 0
    assert (await log.read_text()).split()[2:] == ["drained"]


async def test_a_town_below_nohup_ignores_the_end_of_its_terminal(tmp_path: Path) -> None:
    async with up(tmp_path / "town", prefix=("nohup",)) as (process, _):
        status = await trio.Path(f"/proc/{process.pid}/status").read_text()
        ignored = int(status.partition("SigIgn:")[2].split()[0], 16)
        assert ignored & 1 << signal.SIGHUP - 1
        assert await code_of(process, signal.SIGTERM) == 0


async def test_a_town_whose_output_nobody_reads_any_more_ends_in_order(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    async with up(tmp_path / "town", writing) as (process, log):
        os.close(writing)
        os.close(reading)
        assert await code_of(process) == 0
    assert "drained" in await log.read_text()


async def test_a_town_on_a_full_disk_goes_on(tmp_path: Path) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    async with up(tmp_path / "town", full) as (process, log):
        os.close(full)
        assert await code_of(process, signal.SIGTERM) == 0
    assert "drained" in await log.read_text()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
async def test_ctrl_c_before_the_town_is_up_says_so_by_its_exit_code(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    said = tmp_path / "said"
    with said.open("wb") as output:
        async with up(tmp_path / "town", output.fileno()) as (process, _):
            assert await code_of(process, number) == code
    lines = said.read_text().splitlines()[4:]
    stopping = ["stopping: the container drains (Ctrl-C again hurries it)", "the town is down"]
    assert lines == stopping + ["gastown up: interrupted"] * (code == 130)


async def test_a_container_that_was_told_to_drain_ends_up_with_0_and_one_line(tmp_path: Path) -> None:
    said = tmp_path / "said"
    with said.open("wb") as output:
        async with up(tmp_path / "town", output.fileno()) as (process, log):
            os.kill(int((await log.read_text()).split()[1]), signal.SIGTERM)
            assert await code_of(process) == 0
    assert said.read_text().splitlines()[4:] == [
        "the container was asked to drain (POST /drain, or a signal), and has left: the town is down"
    ]


async def test_the_log_of_the_hall_is_there_from_the_start(tmp_path: Path) -> None:
    async with up(tmp_path / "town") as (process, _):
        assert "answers at http://127.0.0.1:" in (tmp_path / "town" / "hall.log").read_text()
        await code_of(process, signal.SIGTERM)


DETACHES = """
import subprocess, sys
real = subprocess.Popen
def started(command, **more):
    at = command.index("-m")
    return real([sys.executable, "-c", SOURCE, CONTAINER, *command[at + 2:]], **more)
subprocess.Popen = started
from gastown.cli import main
sys.exit(main())
"""


def detached(data: Path, container: str = CONTAINER) -> subprocess.Popen[str]:
    """A `gastown up --detach` whose container is the small process."""
    program = f"SOURCE, CONTAINER = {UP!r}, {container!r}\n{DETACHES}"
    return subprocess.Popen(
        [sys.executable, "-c", program, "up", "--dir", str(data), "--port", "0", "--detach"],
        env=environment(),
        cwd="/",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_a_town_that_does_not_come_up_in_the_background_is_one_line(tmp_path: Path) -> None:
    """With the reason, and where the log of it is; the exit code is that of `up`."""
    process = detached(tmp_path / "town", "print('no room'); raise SystemExit(2)")
    out, err = process.communicate(timeout=60)
    told = f"gastown up: no room; its log is {tmp_path / 'town' / 'up.log'}\n"
    assert (process.returncode, out, err) == (2, "", told)


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    process = detached(tmp_path / "file" / "town")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err.count("\n")) == (2, "", 1)


async def test_ctrl_c_while_a_town_comes_up_in_the_background_ends_it(tmp_path: Path) -> None:
    """In order, and before the command is over."""
    process = detached(tmp_path / "town")
    log = trio.Path(tmp_path / "town" / "serve.log")
    with trio.fail_after(60):
        while not (await log.exists() and "ready" in await log.read_text()):
            await trio.sleep(0.02)  # a file of another process
    process.send_signal(signal.SIGINT)
    out, err = await trio.to_thread.run_sync(process.communicate)
    assert (process.returncode, out, err) == (130, "", "gastown: interrupted\n")
    assert "drained" in await log.read_text()
