"""Child processes, with real ones: nothing of a child is left when its block is left."""

from __future__ import annotations

import os
import signal

import pytest
import trio

from gastown.concurrency.processes import CannotStart, Exit, end_group, marked_processes, open_child
from gastown.isolation.descendants import descendants_of, still_there
from gastown.isolation.proc import status_of
from gastown.kilo.server import launch
from gastown.kilo.spec import ServerSpec

ENVIRONMENT = {"PATH": os.environ["PATH"]}


def shell(script: str, lines: list[str] | None = None, grace: float = 5):
    take = (lines if lines is not None else []).append
    return open_child(["sh", "-c", script], cwd="/", env=ENVIRONMENT, on_stdout=take, grace=grace)


async def said(lines: list[str], line: str) -> None:
    with trio.fail_after(20):
        while line not in lines:
            await trio.sleep(0.01)


async def test_a_child_that_ends_by_itself_tells_its_code_and_its_last_words():
    lines: list[str] = []
    async with shell("echo out; echo first >&2; echo last >&2; exit 3", lines) as child:
        with trio.fail_after(20):
            await child.ended.wait()
    assert (child.exit, lines, child.stderr_tail) == (Exit(3), ["out"], ("first", "last"))
    assert str(child.exit) == "exited with code 3"


async def test_a_killed_child_tells_the_signal():
    async with shell("exec sleep 1000") as child:
        os.kill(child.pid, signal.SIGKILL)
        with trio.fail_after(20):
            await child.ended.wait()
    assert str(child.exit) == "was killed by SIGKILL"


async def test_leaving_the_block_asks_a_child_to_end():
    lines: list[str] = []
    async with shell("trap 'echo asked; exit 0' TERM; echo up; while :; do sleep 0.01; done", lines) as child:
        await said(lines, "up")
    assert (child.exit, "asked" in lines) == (Exit(0), True)


async def test_a_child_that_ignores_the_request_is_killed():
    lines: list[str] = []
    async with shell("trap '' TERM; echo up; while :; do sleep 0.01; done", lines, grace=0.1) as child:
        await said(lines, "up")
    assert child.exit is not None
    assert child.exit.signal == "SIGKILL"


async def test_without_grace_a_child_is_not_asked():
    lines: list[str] = []
    async with shell(
        "trap 'echo asked; exit 0' TERM; echo up; while :; do sleep 0.01; done", lines, grace=0
    ) as child:
        await said(lines, "up")
    assert (str(child.exit), "asked" in lines) == ("was killed by SIGKILL", False)


async def test_a_grandchild_in_a_session_of_its_own_is_found_and_ended():
    lines: list[str] = []
    async with shell("setsid sleep 1000 & setsid setsid sleep 1000 & echo up; wait", lines) as child:
        await said(lines, "up")
        mark = child.mark
        with trio.fail_after(20):
            while len(await trio.to_thread.run_sync(marked_processes, mark)) < 3:
                await trio.sleep(0.01)
    assert await trio.to_thread.run_sync(marked_processes, mark) == ()
    assert child.leftovers == ()


async def test_a_cancelled_block_leaves_no_child_either():
    lines: list[str] = []
    with trio.move_on_after(60) as scope:
        async with shell("setsid sleep 1000 & echo up; wait", lines) as child:
            await said(lines, "up")
            scope.cancel()
            await trio.sleep_forever()
    assert child.exit is not None
    assert await trio.to_thread.run_sync(marked_processes, child.mark) == ()


async def test_an_endless_line_is_cut_and_does_not_fill_the_memory():
    lines: list[str] = []
    async with shell("head -c 100000 /dev/zero | tr '\\0' x; echo; echo done", lines):
        await said(lines, "done")
    assert max(len(line) for line in lines) <= 8192 + 65536
    assert sum(len(line) for line in lines) == 100_000 + len("done")


@pytest.mark.parametrize(("argv", "cwd"), [(["/no/such/program"], "/"), (["sh"], "/no/such/folder")])
async def test_what_cannot_be_started_says_why(argv, cwd):
    with pytest.raises(CannotStart, match="No such file or directory"):
        async with open_child(argv, cwd=cwd, env=ENVIRONMENT, on_stdout=print, grace=1):
            pass


async def test_a_child_that_died_has_ended_though_a_grandchild_holds_its_stderr():
    """The grandchild keeps the pipe open for as long as it lives; nothing waits for that."""
    async with shell("setsid sleep 1000 & echo last >&2; exit 3") as child:
        with trio.fail_after(20):
            await child.ended.wait()
        assert (child.exit, child.stderr_tail) == (Exit(3), ("last",))


async def test_the_last_words_need_no_newline():
    lines: list[str] = []
    async with shell("printf out; printf last >&2; exit 3", lines) as child:
        with trio.fail_after(20):
            await child.ended.wait()
    assert (lines, child.stderr_tail) == (["out"], ("last",))


async def test_a_group_that_ignores_the_request_is_killed_with_all_that_is_in_it():
    """`end_group` sends KILL to the whole group, also to what the leader has started."""
    lines: list[str] = []
    async with shell("trap '' TERM; sleep 1000 & echo $!; echo up; while :; do sleep 0.01; done", lines) as child:
        await said(lines, "up")
        with trio.fail_after(20):
            await end_group(child.process, 0.1)
            await child.process.wait()
            while status_of(int(lines[0])).get("State", "Z")[0] not in "ZX":
                await trio.sleep(0.01)
    assert str(child.exit) == "was killed by SIGKILL"


CLEAN = "env -i PATH=$PATH setsid sleep 1000"


async def test_a_descendant_that_has_cleared_its_environment_is_ended_while_its_parents_live():
    lines: list[str] = []
    async with shell(f"{CLEAN} & echo up; wait", lines) as child:
        await said(lines, "up")
        with trio.fail_after(20):
            while len(family := await trio.to_thread.run_sync(descendants_of, child.pid)) < 1:
                await trio.sleep(0.01)
    assert still_there(family) == ()
    assert child.leftovers == ()


@pytest.mark.parametrize("then", ["true", "rm -r ../place"])
async def test_a_daemon_without_any_trace_of_its_parents_is_told_by_where_it_works(tmp_path, then):
    """It is not ended: it may be another one's. The answer of a stop names it, also where its place is a link, or
    is gone.
    """
    (tmp_path / "place").mkdir()
    place = tmp_path / "link"
    place.symlink_to("place")
    daemon = f"({CLEAN} & echo $! > ../daemon); {then}; touch ../up; sleep 1000"
    script = f"echo 'kilo server listening on http://127.0.0.1:1'; {daemon}"
    spec = ServerSpec(("sh", "-c", script), str(place), str(place), {"PATH": os.environ["PATH"]})
    with trio.fail_after(30):
        async with launch(spec) as server:
            while not (tmp_path / "up").exists():
                await trio.sleep(0.01)
    daemon = int((tmp_path / "daemon").read_text())
    assert server.leftovers == (daemon,)
    os.kill(daemon, signal.SIGKILL)
