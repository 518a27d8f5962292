"""A hostile agent on a real kilo: what it gets of the town's secrets and of another agent, and what not."""

from __future__ import annotations

import os
from typing import Any

import pytest
import trio

from tests.kilo.attacked_town import MARKS, open_attacked_town
from tests.kilo.town import alive

pytestmark = pytest.mark.kilo

CONTAINER = "-all,+chown,+dac_override,+fowner,+kill,+setgid,+setuid"
"""All that the control server needs of root's rights; a container's root has some more, but no CAP_SYS_PTRACE."""
NOBODY_ELSE = 64_300
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run agents as another user")


def leaks(report: dict[str, Any]) -> dict[str, Any]:
    """Every place where a secret of the town was found."""
    return {name: what for name, what in report.items() if name.startswith("marks in") and what}


async def attacked(kill: bool = False, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the attacker got, and what is there of the town afterwards."""
    with trio.fail_after(240):
        async with open_attacked_town(**options) as town:
            victim = await town.start("victim")
            await town.start("attacker")
            servers = town.servers
            report = await town.attack("attacker", victim, kill=kill)
            alive_after = alive(list(servers.values()))
            stopped = (await town.client.post("/agents/attacker/stop")).json()
            outlived = alive([report["outlives"]])
            if outlived:
                os.kill(report["outlives"], 9)
            after = {
                "servers": servers,
                "alive": alive_after,
                "stopped": stopped,
                "outlived": outlived,
                "control": town.control.poll(),
                "homes": town.homes(),
                "log": town.log(),
            }
    return report, after


@needs_root
async def test_an_agent_that_is_a_user_of_its_own_gets_nothing_of_the_town_or_of_another_agent() -> None:
    report, after = await attacked(
        kill=True, capabilities=CONTAINER, GASTOWN_AGENT_USER="64200", GASTOWN_AGENT_UIDS="200000-200063"
    )
    assert leaks(report) == {}
    assert report["uid"] in range(200_000, 200_064)
    assert report["servers of others seen"] == 1
    for what in (
        "memory of the control server",
        "environment of the control server",
        "may signal the control server",
        "memory of another's server",
        "environment of another's server",
        "may signal another's server",
        "another's home",
        "another's kilo.db",
        "another's worktree",
        "writes into the clone",
        "writes into the rig's room",
        "writes beside the homes",
    ):
        assert report[what] is False, what
    assert report["kills"] == ["PermissionError"]
    assert report["alive after the kills"] == 1
    assert set(after["alive"]) >= {after["servers"]["victim"]}
    assert after["control"] is None
    assert report["helper"] == {"own rig": True, "forged": False, "another's key": False}
    assert (after["stopped"]["leftovers"], after["outlived"]) == ([], [])
    homes = after["homes"].values()
    assert {(home.st_mode & 0o777, home.st_uid in range(200_000, 200_064)) for home in homes} == {(0o700, True)}
    assert len({home.st_uid for home in homes}) == len(homes) == 2
    assert_broker_is_closed(report)
    assert_ports_are_closed(report)


def assert_ports_are_closed(report: dict[str, Any]) -> None:
    """To an agent, which has a bearer for the broker and none for them."""
    assert set(report["control port"].values()) == {401}
    assert report["others' servers"] == [401]


def assert_broker_is_closed(report: dict[str, Any]) -> None:
    """To everybody but the agent itself, whoever that is for the kernel."""
    assert report["broker"] == {
        "as itself": 200,
        "path of another": 403,
        "as a mayor": 403,
        "registry": 403,
        "forged": 401,
        "no bearer": 401,
    }


@needs_root
async def test_a_mayor_and_an_agent_that_only_reasons_work_as_users_of_their_own() -> None:
    """The one looks at the repositories, the other sits in a directory that it cannot write."""
    uids = {"GASTOWN_AGENT_USER": "64200", "GASTOWN_AGENT_UIDS": "200000-200063"}
    with trio.fail_after(240):
        async with open_attacked_town(capabilities=CONTAINER, **uids) as town:
            address = town.git.url("r").replace("://", f"://x:{MARKS['rig']}@")  # no polecat brings its token here
            rig = {"rigId": "r", "gitUrl": address, "defaultBranch": "main"}
            mayor = await town.start("mayor-1", rigs=[rig], systemPrompt="Be the mayor.")
            triage = await town.start("triage-1", role="triage", gitUrl="", branch="", defaultBranch="")
            assert [await town.turn_closed(name) for name in ("mayor-1", "triage-1")] == ["completed"] * 2
            owners = {
                place: os.lstat(place).st_uid
                for place in (mayor["workdir"], f"{mayor['workdir']}/AGENTS.md", await town.browsed())
            }
            shared = os.lstat(triage["workdir"])
            uid = town.homes()["agent-home-triage-1"].st_uid
    assert set(owners.values()) == {200_000}
    assert (shared.st_uid, shared.st_mode & 0o777) == (64_200, 0o750)
    assert uid == 200_001


@needs_root
async def test_agents_that_share_a_user_still_get_nothing_of_the_town() -> None:
    report, after = await attacked(capabilities=CONTAINER, GASTOWN_AGENT_USER="64200")
    assert leaks(report) == {}
    assert report["uid"] == 64_200
    for what in (
        "memory of the control server",
        "environment of the control server",
        "may signal the control server",
    ):
        assert report[what] is False, what
    # What the log says of it: they are one user.
    for what in ("environment of another's server", "may signal another's server", "another's home"):
        assert report[what] is True, what
    assert "agents.share_a_user" in after["log"]
    assert_broker_is_closed(report)


async def test_an_ordinary_user_s_agent_finds_no_secret_of_the_town_and_can_still_do_what_is_documented() -> None:
    """Agents are what the control server is: docs/adr/0020 says what that leaves."""
    run_as = NOBODY_ELSE if os.geteuid() == 0 else None
    report, after = await attacked(run_as=run_as)
    assert leaks(report) == {}
    assert report["memory of the control server"] is False
    assert report["environment of the control server"] is False
    possible = {
        "may signal the control server",
        "environment of another's server",
        "may signal another's server",
        "another's home",
        "another's kilo.db",
        "another's worktree",
        "writes into the clone",
    }
    assert {what for what in possible if report[what] is not True} == set()
    assert_broker_is_closed(report)
    assert after["control"] is None
