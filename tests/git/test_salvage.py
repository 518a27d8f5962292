"""What an agent leaves in its directory, saved by a drain: real git over HTTP, under the fake kilo."""

from __future__ import annotations

import subprocess
from pathlib import Path

from gastown.agents.drain.town import run_drain
from gastown.assembly import drain_parts
from tests.git.test_worktrees import FILES
from tests.git.town import GitTown

STRANGER = ("-c", "user.name=A", "-c", "user.email=a@test")


def git(place: Path, *arguments: str) -> str:
    """git as an agent has it, with the configuration of its repository."""
    env = {"PATH": "/usr/bin:/bin", "HOME": str(place)}
    done = subprocess.run(
        ["git", *STRANGER, *arguments], cwd=place, env=env, text=True, capture_output=True, check=True
    )
    return done.stdout.strip()


async def drained(town: GitTown, agent_id: str = "pole-1") -> dict:
    """Drain the town; the receipt of one agent."""
    drain = town.town.opened.town.drain
    drain.ask("a test", 200)
    await run_drain(drain, drain_parts(town.town.opened))
    receipts = {one.agent_id: one.model_dump(mode="json", by_alias=True) for one in drain.to_wire().agents}
    return receipts[agent_id]


def refs(receipt: dict) -> list[str]:
    return [one["ref"] for one in receipt["rescued"]]


def read(town: GitTown, ref: str, path: str) -> str:
    return town.server.git("r", "show", f"{ref}:{path}")


def finished(town: GitTown) -> Path:
    """A worktree with one finished commit that nobody has, and one file that is open."""
    place = town.worktree()
    (place / "done.txt").write_text("done\n")
    git(place, "add", "done.txt")
    git(place, "commit", "-q", "-m", "Done")
    (place / "open.txt").write_text("open\n")
    return place


async def test_a_finished_commit_and_an_open_file_are_on_the_agents_branch(git_town, quick_clock):
    git_town.server.make("r", FILES)
    async with git_town() as town:
        await town.start()
        place = finished(town)
        receipt = await drained(town)
        assert (receipt["pushed"], receipt["lost"], receipt["rescued"]) == (True, [], [])
        assert town.server.tip("r", "work/pole-1") == receipt["commit"] == git(place, "rev-parse", "HEAD")
        assert read(town, "work/pole-1", "open.txt") == "open\n"
        assert git(place, "status", "--porcelain") == ""


async def test_an_agent_that_is_stopped_says_where_its_work_is_and_leaves_its_directory_as_it_is(
    git_town, quick_clock
):
    git_town.server.make("r", FILES)
    async with git_town() as town:
        await town.start()
        place = finished(town)
        git(place, "branch", "side", "HEAD")
        git(place, "stash", "-u")
        (place / "open.txt").write_text("open\n")
        answer = (await town.town.client.post("/agents/pole-1/stop")).json()
        assert (answer["pushed"], answer["lost"], answer["unsaved"]) == (True, [], [])
        what = {one["what"]: one["ref"] for one in answer["rescued"]}
        assert set(what) == {"stash@{0}", "files that are in no commit"}
        assert read(town, what["files that are in no commit"], "open.txt") == "open\n"
        assert town.server.tip("r", "work/pole-1") == git(place, "rev-parse", "HEAD")
        assert git(place, "status", "--porcelain") == "?? open.txt"
        (event,) = [one for one in await town.town.events("pole-1") if one["event"] == "agent.receipt"]
        assert event["data"]["rescued"] == answer["rescued"]
        assert (await town.town.client.post("/agents/pole-1/stop")).json() == answer


async def test_an_agent_that_exits_idle_leaves_a_receipt(git_town, quick_clock):
    git_town.server.make("r", FILES)
    async with git_town(agent_idle_timeout_ms=4000) as town:
        await town.start()
        finished(town)
        (receipt,) = await town.until(lambda: town.town.logged("agent.receipt"))
        assert (receipt["pushed"], receipt["lost"], len(receipt["rescued"])) == (True, [], 1)


async def test_a_stop_in_the_middle_of_a_start_saves_what_an_earlier_container_left(git_town, quick_clock):
    git_town.server.make("r", FILES)
    async with git_town() as town:
        await town.start()
        finished(town)
        town.town.opened.town.roster.get("pole-1").session_id = None  # as before its first session
        answer = (await town.town.client.post("/agents/pole-1/stop")).json()
        assert (answer["pushed"], answer["lost"], len(answer["rescued"])) == (True, [], 1)


async def test_a_stop_of_an_agent_that_pushed_everything_says_no_more_than_before(git_town, quick_clock):
    git_town.server.make("r", FILES)
    async with git_town() as town:
        await town.start()
        answer = await town.town.client.post("/agents/pole-1/stop")
        assert answer.json() == {"stopped": True, "leftovers": []}


async def test_a_start_on_another_branch_saves_the_directory_that_it_leaves(git_town, quick_clock):
    git_town.server.make("r", FILES)
    async with git_town() as town:
        await town.start()
        finished(town)
        assert (await town.start(branch="work/another")).status_code == 201
        (receipt,) = town.town.logged("agent.receipt")
        assert (receipt["pushed"], receipt["lost"], len(receipt["rescued"])) == (True, [], 1)


async def test_the_worker_is_told_the_rescue_branch_where_the_agents_own_is_refused(git_town, quick_clock):
    git_town.server.make("r", FILES)
    async with git_town() as town:
        await town.start()
        place = finished(town)
        git(place, "push", "-q", str(town.server.bare("r")), "HEAD")
        git(place, "commit", "-q", "--amend", "-m", "Rebased")
        receipt = await drained(town)
        ref = receipt["rescued"][0]["ref"]
        assert ref.startswith("gastown-rescue/pole-1-")
        (context,) = town.town.worker.asked("POST /eviction-context")
        assert (context.body["branch"], receipt["reported"], receipt["lost"]) == (ref, True, [])


async def test_a_repository_without_a_commit_and_a_wish_to_sign_cost_no_finished_commit(git_town, quick_clock):
    """The first input of the list of real ones."""
    git_town.server.make("r", FILES)
    async with git_town() as town:
        await town.start()
        place = finished(town)
        git(place, "init", "-q", "scaffold")
        git(place, "config", "commit.gpgsign", "true")
        receipt = await drained(town)
        assert (receipt["pushed"], receipt["lost"], receipt["reported"]) == (True, [], True)
        assert read(town, "work/pole-1", "open.txt") == "open\n"
