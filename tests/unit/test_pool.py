"""The pool of kilo servers: one per working directory, reused when equal, ended when not wanted."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from io import StringIO

import pytest
import structlog
import trio
from trio.testing import wait_all_tasks_blocked

from gastown import logs
from gastown.concurrency.phases import PhaseLog
from gastown.concurrency.processes import Exit
from gastown.concurrency.slots import Priority, PrioritySlots
from gastown.kilo.client import KiloClient
from gastown.kilo.errors import KiloRefused, NotReady, ServerDied
from gastown.kilo.pool import Lease, ServerPool, SpawnTimedOut, open_pool
from gastown.kilo.spec import ServerSpec
from gastown.testing.kilo import Script
from gastown.testing.launchers import CrashingKilo, DyingKilo, FakeLauncher, NeverKilo, SlowKilo
from gastown.testing.network import MemoryNetwork, open_network

pytestmark = pytest.mark.virtual_time

TOOLS = "GET /experimental/tool/ids"


def spec(
    agent_id: str = "a", *, cwd: str = "/work/a", tools: frozenset[str] = frozenset(), **env: str
) -> ServerSpec:
    config = json.dumps({"provider": {"kilo": {"models": {}}}})
    whole = {"GASTOWN_AGENT_ID": agent_id, "KILO_CONFIG_CONTENT": config, **env}
    return ServerSpec(("kilo", "serve"), cwd, f"/homes/{agent_id}", whole, tools)


@dataclass
class House:
    """A pool on fakes. `log` is what was logged."""

    pool: ServerPool
    kilo: FakeLauncher
    log: StringIO

    async def hold(
        self,
        wanted: ServerSpec,
        *,
        seconds: float = 0,
        park: bool = False,
        priority: Priority = Priority.INTERACTIVE,
        phases: PhaseLog | None = None,
    ) -> Lease:
        """Lease a server for some time."""
        async with self.pool.lease(lambda: wanted, priority, phases or PhaseLog()) as lease:
            lease.settled()
            await trio.sleep(seconds)
            if park:
                lease.park()
        return lease


@asynccontextmanager
async def open_house(
    kilo: Callable[[MemoryNetwork], FakeLauncher] = FakeLauncher, *, slots: int = 2, spawn_seconds: float = 30
) -> AsyncIterator[House]:
    log = StringIO()
    logs.configure(tuple, log)
    try:
        async with open_network() as network:
            launcher = kilo(network)
            async with open_pool(
                launcher, partial(KiloClient, network.client()), PrioritySlots(slots), spawn_seconds=spawn_seconds
            ) as pool:
                yield House(pool, launcher, log)
            assert launcher.live == []
    finally:
        structlog.reset_defaults()


async def test_callers_of_one_directory_have_its_server_one_after_the_other() -> None:
    async with open_house() as house:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(partial(house.hold, spec(), seconds=5, park=True))
        assert (len(house.kilo.spawns), round(trio.current_time(), 1)) == (1, 17.2)


async def test_a_caller_that_waits_for_a_server_that_dies_spawns_another() -> None:
    async with open_house() as house, trio.open_nursery() as nursery:
        nursery.start_soon(partial(house.hold, spec(), seconds=10))
        await trio.sleep(5)
        nursery.start_soon(partial(house.hold, spec()))
        await wait_all_tasks_blocked()
        house.kilo.kill(house.kilo.live[0])
        await trio.sleep(3)
        assert len(house.kilo.spawns) == 2


async def test_a_caller_that_waits_for_a_server_of_another_spec_has_it_replaced() -> None:
    async with open_house() as house:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(house.hold, spec(TOKEN="old"), seconds=10, park=True))
            await trio.sleep(1)
            nursery.start_soon(partial(house.hold, spec(TOKEN="new")))
        before, after = house.kilo.spawns
        assert (before.ended, after.began) == (12.5, 12.5)


async def test_a_parked_server_of_equal_spec_is_adopted() -> None:
    async with open_house() as house:
        first = await house.hold(spec(), park=True)
        phases = PhaseLog()
        second = await house.hold(spec(), phases=phases)
        assert second.server is first.server
        assert phases.spans == []


async def test_every_server_has_a_password_of_its_own_which_is_no_part_of_its_spec() -> None:
    async with open_house() as house:
        first, second = await house.hold(spec()), await house.hold(spec())
        assert first.server.spec.fingerprint == second.server.spec.fingerprint
        assert first.server.running.endpoint.password != second.server.running.endpoint.password


async def test_the_passwords_of_the_servers_that_are_there_are_known_to_the_log() -> None:
    async with open_house() as house:
        lease = await house.hold(spec(), park=True)
        assert house.pool.secrets() == [lease.server.running.endpoint.password]
        await house.pool.discard(spec().key)
        assert house.pool.secrets() == []


async def test_a_lease_that_is_not_parked_ends_its_server() -> None:
    async with open_house() as house:
        lease = await house.hold(spec())
        assert (house.kilo.live, lease.server.running.exit) == ([], Exit(0))


async def test_a_parked_server_of_another_spec_is_gone_before_its_successor_starts() -> None:
    async with open_house() as house:
        await house.hold(spec(TOKEN="old"), park=True)
        await house.hold(spec(TOKEN="new"))
        before, after = house.kilo.spawns
        assert before.ended is not None
        assert before.ended <= after.began


async def test_a_difference_is_logged_by_its_names_and_never_by_its_values() -> None:
    async with open_house() as house:
        await house.hold(spec(TOKEN="value-before", SAME="x"), park=True)
        await house.hold(spec(TOKEN="value-after", SAME="x", EXTRA="value-extra"))
        text = house.log.getvalue()
        unequal = [line for line in map(json.loads, text.splitlines()) if line["event"] == "server.unequal"]
        assert [line["differences"] for line in unequal] == [["env.EXTRA", "env.TOKEN"]]
        assert "value-" not in text


async def test_a_parked_server_that_has_died_is_replaced() -> None:
    async with open_house() as house:
        await house.hold(spec(), park=True)
        house.kilo.kill(house.kilo.live[0])
        await house.hold(spec())
        assert len(house.kilo.spawns) == 2


async def test_a_leased_server_is_not_given_to_another_home_of_the_same_directory() -> None:
    async with open_house() as house:
        await house.hold(spec("a", cwd="/rooms/shared"), park=True)
        await house.hold(spec("b", cwd="/rooms/shared"))
        assert house.kilo.order == ["a", "b"]


async def test_the_spec_is_asked_again_when_the_wait_for_a_slot_is_over() -> None:
    async with open_house(slots=1) as house:
        token = "old"

        async def hold_newest() -> None:
            def newest() -> ServerSpec:
                return spec(TOKEN=token)

            async with house.pool.lease(newest, Priority.INTERACTIVE, PhaseLog()):
                pass

        async with trio.open_nursery() as nursery:
            with await house.pool.slots.take(Priority.INTERACTIVE):
                nursery.start_soon(hold_newest)
                await wait_all_tasks_blocked()
                token = "new"
        assert [spawn.spec.env["TOKEN"] for spawn in house.kilo.spawns] == ["new"]


async def test_servers_of_different_directories_come_up_side_by_side_as_slots_allow() -> None:
    async with open_house(slots=2) as house:
        async with trio.open_nursery() as nursery:
            for name in "abcd":
                nursery.start_soon(partial(house.hold, spec(name, cwd=f"/work/{name}")))
        assert (len(house.kilo.spawns), house.kilo.peak) == (4, 2)


async def test_a_slot_stays_taken_until_the_start_has_settled() -> None:
    async with open_house(slots=1) as house:

        async def first() -> None:
            async with house.pool.lease(spec, Priority.INTERACTIVE, PhaseLog()) as lease:
                await trio.sleep(10)
                lease.settled()
                await trio.sleep(10)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(first)
            await trio.sleep(1)
            nursery.start_soon(partial(house.hold, spec("b", cwd="/work/b")))
        assert [round(spawn.began, 1) for spawn in house.kilo.spawns] == [0, 12.2]


@pytest.mark.parametrize("launcher", [NeverKilo, lambda network: SlowKilo(network, 31)])
async def test_a_spawn_that_takes_too_long_is_ended_and_says_so(
    launcher: Callable[[MemoryNetwork], FakeLauncher],
) -> None:
    async with open_house(launcher) as house:
        with pytest.raises(SpawnTimedOut, match=r"not ready 30 s after its spawn \(phase spawn\)"):
            await house.hold(spec())
        (spawn,) = house.kilo.spawns
        assert (spawn.ended_by_cancel, spawn.listened, trio.current_time()) == (True, None, 30.3)


async def test_a_server_that_listens_but_boots_no_instance_is_ended_and_says_so() -> None:
    async with open_house() as house:
        house.kilo.script = Script(hangs=frozenset({TOOLS}))
        with pytest.raises(SpawnTimedOut, match=r"\(phase instance\)"):
            await house.hold(spec())
        assert (house.kilo.live, house.pool.slots.in_use) == ([], 0)


async def test_the_clock_of_a_spawn_does_not_run_in_the_queue() -> None:
    async with open_house(lambda network: SlowKilo(network, 25), slots=1) as house:
        phases = PhaseLog()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(house.hold, spec()))
            await trio.sleep(1)
            nursery.start_soon(partial(house.hold, spec("b", cwd="/work/b"), phases=phases))
        assert [(s.name, round(s.seconds, 1)) for s in phases.spans[:2]] == [("queue", 24.2), ("spawn", 25.0)]


async def test_a_server_without_the_tools_that_must_be_there_is_not_ready_and_is_ended() -> None:
    async with open_house() as house:
        house.kilo.script = Script(tools=("bash",))
        with pytest.raises(NotReady, match="without the tools gt_mail, gt_sling"):
            await house.hold(spec(tools=frozenset({"bash", "gt_sling", "gt_mail"})))
        assert (house.kilo.live, house.pool.servers, house.pool.slots.in_use) == ([], (), 0)


async def test_a_server_that_refuses_the_probe_is_ended() -> None:
    async with open_house() as house:
        house.kilo.script = Script(broken=frozenset({TOOLS}))
        with pytest.raises(KiloRefused):
            await house.hold(spec())
        assert house.kilo.live == []


@pytest.mark.parametrize("after", [0.0, 1.0, 2.0, 2.1, 2.2])
async def test_a_cancelled_caller_leaves_no_server_and_no_slot(after: float) -> None:
    async with open_house() as house:
        with trio.move_on_after(after):
            await house.hold(spec(), seconds=100)
        assert (house.kilo.live, house.pool.servers, house.pool.slots.in_use) == ([], (), 0)
        await house.hold(spec())


async def test_a_caller_that_is_cancelled_while_it_waits_for_a_slot_leaves_the_queue() -> None:
    async with open_house(slots=1) as house:
        with await house.pool.slots.take(Priority.INTERACTIVE), trio.move_on_after(5):
            await house.hold(spec())
        assert (house.kilo.spawns, house.pool.slots.waiting, house.pool.slots.in_use) == ([], 0, 0)


async def test_a_server_that_ends_at_start_is_reported_with_its_exit_and_its_last_words() -> None:
    launcher = partial(CrashingKilo, returncode=3, stderr=("first", "Error: the last word"))
    async with open_house(launcher) as house:
        with pytest.raises(ServerDied, match=r"exited with code 3; last stderr: first \| Error: the last word"):
            await house.hold(spec())
        assert house.pool.slots.in_use == 0


async def test_a_server_that_dies_during_the_probe_is_reported_as_dead_and_not_as_unreachable() -> None:
    launcher = partial(DyingKilo, seconds=0.1, stderr=("panic: out of memory",))
    async with open_house(launcher) as house:
        with pytest.raises(ServerDied, match="was killed by SIGKILL; last stderr: panic: out of memory"):
            await house.hold(spec())
        assert house.pool.servers == ()


async def test_a_server_that_dies_while_it_is_leased_is_told_and_not_counted_any_more() -> None:
    launcher = partial(DyingKilo, seconds=10)
    async with open_house(launcher) as house, house.pool.lease(spec, Priority.INTERACTIVE, PhaseLog()) as lease:
        await lease.server.ended.wait()
        assert (trio.current_time(), house.pool.servers) == (12, ())
        assert str(lease.server.death()).startswith("kilo serve was killed by SIGKILL")


async def test_discarding_ends_a_parked_server_and_no_leased_one() -> None:
    async with open_house() as house:
        await house.hold(spec("a"), park=True)
        async with house.pool.lease(lambda: spec("b", cwd="/work/b"), Priority.INTERACTIVE, PhaseLog()):
            await house.pool.discard(spec("a").key)
            await house.pool.discard(spec("b", cwd="/work/b").key)
            assert [server.spec.cwd for server in house.pool.servers] == ["/work/b"]


async def test_what_is_parked_ends_and_what_is_leased_or_is_going_to_be_stays() -> None:
    async with open_house() as house:
        await house.hold(spec("a"), park=True)
        (parked,) = house.pool.servers
        async with house.pool.lease(lambda: spec("b", cwd="/work/b"), Priority.INTERACTIVE, PhaseLog()) as lease:
            successor = await lease.spawn_beside(spec("c", cwd="/work/b"), PhaseLog())
            house.pool.discard_parked()
            await parked.gone.wait()
            assert house.pool.servers == (lease.server, successor)
            await house.pool.retire(successor)


async def test_closing_the_pool_ends_every_server() -> None:
    async with open_house() as house:
        await house.hold(spec(), park=True)
        assert len(house.kilo.live) == 1


async def test_a_replaced_server_is_retired_and_its_successor_belongs_to_the_lease() -> None:
    async with open_house() as house:
        async with house.pool.lease(spec, Priority.INTERACTIVE, PhaseLog()) as lease:
            successor = await lease.spawn_beside(spec(TOKEN="new"), PhaseLog())
            assert len(house.pool.servers) == 2
            await lease.replace(successor)
            assert [server.spec.env["TOKEN"] for server in house.pool.servers] == ["new"]
        assert house.pool.servers == ()


def test_a_death_is_told_with_the_first_words_and_the_last() -> None:
    """A stack trace has its cause at the top: `EACCES: permission denied, mkdir ...`."""
    trace = ("EACCES: permission denied, mkdir '/h'", *(f"at {number}" for number in range(30)), "Bun v1")
    assert str(ServerDied(Exit(1), trace)) == (
        "kilo serve exited with code 1; first stderr: EACCES: permission denied, mkdir '/h' | at 0; "
        "last stderr: at 26 | at 27 | at 28 | at 29 | Bun v1"
    )
