"""The container as a child process: real, tiny ones stand for it."""

from __future__ import annotations

import os
import signal
import socket
import stat
from pathlib import Path

import pytest
import trio

from gastown.contract.identifiers import is_identifier
from gastown.contract.secret import Secret
from gastown.hall.domain.town import TownRecord
from gastown.hall.drivers.process import (
    ContainerDied,
    ContainerLeft,
    ContainerOptions,
    base_environment,
    choose_port,
    container_environment,
    end_strays,
    run_container,
)
from gastown.hall.server import PortTaken

READY = "echo ready; "
SLEEP = "while :; do sleep 0.05; done"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


def options(folder: Path, script: str, *, drain: float = 10, **variables: str) -> ContainerOptions:
    return ContainerOptions(
        environment={"PATH": os.environ["PATH"]} | variables,
        log=folder / "serve.log",
        homes=folder / "homes",
        drain_seconds=drain,
        command=("sh", "-c", script),
    )


async def logged(folder: Path, text: str) -> None:
    """Return when the container has written `text`."""
    log = trio.Path(folder / "serve.log")
    with trio.fail_after(10):
        while True:  # a file of another process: there is nothing to wait on
            if text in await log.read_text():
                return
            await trio.sleep(0.01)


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()


async def test_leaving_the_block_ends_the_container_with_a_term(folder: Path) -> None:
    async with run_container(options(folder, f"trap 'echo drained; exit 0' TERM; {READY}{SLEEP}")) as container:
        await logged(folder, "ready")
    assert is_gone(container.pid)
    assert await trio.Path(folder / "serve.log").read_text() == "ready\ndrained\n"


async def test_a_cancelled_block_still_drains_the_container(folder: Path) -> None:
    with trio.CancelScope() as scope:
        async with run_container(options(folder, f"trap 'echo drained; exit 0' TERM; {READY}{SLEEP}")):
            await logged(folder, "ready")
            scope.cancel()
            await trio.sleep_forever()
    assert "drained" in await trio.Path(folder / "serve.log").read_text()


async def test_a_container_that_ends_by_itself_cancels_the_block_and_says_its_last_lines(folder: Path) -> None:
    with pytest.raises(ContainerDied, match=r"exited with code 7; the end of .*serve.log:\n  one\n  two") as died:
        async with run_container(options(folder, "echo one; echo two >&2; exit 7")):
            await trio.sleep_forever()
    assert died.value.returncode == 7


async def test_a_container_that_ends_with_0_by_itself_has_been_asked_to_drain(folder: Path) -> None:
    with pytest.raises(ContainerLeft, match="asked to drain"):
        async with run_container(options(folder, "exit 0")):
            await trio.sleep_forever()


async def test_a_container_that_was_killed_says_by_what(folder: Path) -> None:
    with pytest.raises(ContainerDied, match="killed by signal 9"):
        async with run_container(options(folder, "kill -9 $$")):
            await trio.sleep_forever()


async def test_a_refusal_to_run_is_its_own_last_line(folder: Path) -> None:
    with pytest.raises(ContainerDied) as died:
        async with run_container(options(folder, "echo starting; echo 'gastown: no kilo found' >&2; exit 2")):
            await trio.sleep_forever()
    assert str(died.value) == "no kilo found"


async def test_a_deaf_container_is_killed_after_its_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gastown.hall.drivers.process._KILL_SECONDS", 0.1)
    with trio.fail_after(20):
        async with run_container(options(folder, f"trap '' TERM; {READY}{SLEEP}", drain=0.1)) as container:
            await logged(folder, "ready")
    assert is_gone(container.pid)


async def test_a_container_that_drains_already_gets_a_second_signal(folder: Path) -> None:
    script = f"n=0; trap 'n=$((n+1)); echo term $n; [ $n = 2 ] && exit 0' TERM; {READY}{SLEEP}"
    async with run_container(options(folder, script)) as container:
        await logged(folder, "ready")
        container.terminate()
        await logged(folder, "term 1")
    assert "term 2" in await trio.Path(folder / "serve.log").read_text()


async def test_processes_of_agents_that_left_the_group_are_ended_too(folder: Path) -> None:
    home = folder / "homes" / "agent-home-a"
    script = f"XDG_DATA_HOME={home} setsid sh -c 'echo $$; echo ready; exec sleep 1000' & {SLEEP}"
    async with run_container(options(folder, script)):
        await logged(folder, "ready")
    pid = int((await trio.Path(folder / "serve.log").read_text()).split()[0])
    with trio.fail_after(5):
        while True:  # it is another's child: the kernel reaps it in its own time
            if is_gone(pid):
                return
            await trio.sleep(0.01)


async def test_a_town_whose_folder_begins_with_our_name_is_left_alone(folder: Path) -> None:
    """Only processes with this town's homes in their environment are ended, not those of `homes-two`."""
    other = {"PATH": os.environ["PATH"], "XDG_DATA_HOME": f"{folder}/homes-two/agent-home-a"}
    process = await trio.lowlevel.open_process(["sleep", "1000"], env=other, start_new_session=True)
    try:
        await trio.to_thread.run_sync(end_strays, folder / "homes")
        assert process.poll() is None
    finally:
        process.kill()
        with trio.move_on_after(5, shield=True):
            await process.wait()


async def test_a_container_that_died_as_the_block_ended_is_reported(folder: Path) -> None:
    """The block is cancelled at the same moment; the death is what the caller must know."""
    with pytest.raises(ContainerDied, match="killed by signal 9"), trio.CancelScope() as scope:  # noqa: PT012
        async with run_container(options(folder, f"{READY}{SLEEP}")) as container:
            await logged(folder, "ready")
            os.kill(container.pid, signal.SIGKILL)
            os.waitid(os.P_PID, container.pid, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222  no task may run now
            scope.cancel()
            await trio.sleep_forever()


async def test_the_log_is_its_owners_and_the_one_before_is_kept(folder: Path) -> None:
    for word in ("first", "second"):
        async with run_container(options(folder, f"trap 'exit 0' TERM; echo {word}; {SLEEP}")):
            await logged(folder, word)
    log, old = trio.Path(folder / "serve.log"), trio.Path(folder / "serve.log.old")
    assert (await log.read_text(), await old.read_text()) == ("second\n", "first\n")
    assert stat.S_IMODE((await log.stat()).st_mode) == 0o600


def test_the_machine_and_gastowns_settings_are_inherited_and_nothing_else() -> None:
    given = {
        "PATH": "/bin",
        "LC_ALL": "C",
        "https_proxy": "http://p",
        "GASTOWN_SPAWN_SLOTS": "1",
        "AWS_SECRET_ACCESS_KEY": "x",
        "KILOCODE_TOKEN": "x",
        "SSH_AUTH_SOCK": "/s",
        "LD_PRELOAD": "/x.so",
    }
    assert base_environment(given).keys() == {"PATH", "LC_ALL", "https_proxy", "GASTOWN_SPAWN_SLOTS"}


def environment(base: dict[str, str], town: TownRecord, *, stand_in: bool) -> dict[str, str]:
    return container_environment(
        base, town, Secret("jwt"), api_url="http://hall", stand_in=stand_in, data_dir=Path("/d"), port=1234
    )


def test_the_environment_says_what_the_town_is() -> None:
    town = TownRecord(id="oak", name="Oak", kilocode_token=Secret("stand-in"), organization_id="org")
    assert environment({"PATH": "/bin"}, town, stand_in=True) == {
        "PATH": "/bin",
        "GASTOWN_API_URL": "http://hall",
        "GASTOWN_TOWN_ID": "oak",
        "GASTOWN_CONTAINER_TOKEN": "jwt",
        "GASTOWN_CONTROL_HOST": "127.0.0.1",
        "GASTOWN_CONTROL_PORT": "1234",
        "GASTOWN_WORKSPACE_ROOT": "/d/rigs",
        "GASTOWN_AGENT_HOME_ROOT": "/d/homes",
        "GASTOWN_PARENT_PID": str(os.getpid()),
        "KILOCODE_TOKEN": "stand-in",
        "GASTOWN_ORGANIZATION_ID": "org",
        "KILO_API_URL": "http://hall",
    }


def test_what_the_town_has_not_is_not_taken_from_the_caller() -> None:
    base = {"GASTOWN_ORGANIZATION_ID": "other", "GASTOWN_TOWN_ID": "other", "KILO_API_URL": "http://mine"}
    made = environment(base, TownRecord(id="oak", name="Oak"), stand_in=False)
    assert "GASTOWN_ORGANIZATION_ID" not in made
    assert "KILOCODE_TOKEN" not in made
    assert (made["GASTOWN_TOWN_ID"], made["KILO_API_URL"]) == ("oak", "http://mine")
    assert is_identifier(made["GASTOWN_TOWN_ID"])


def test_a_free_port_is_found_and_a_taken_one_refused() -> None:
    assert choose_port("127.0.0.1", 0) > 0
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(PortTaken, match="is taken"):
            choose_port("127.0.0.1", taken.getsockname()[1])
