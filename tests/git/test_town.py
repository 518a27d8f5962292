"""Repositories through the whole control API: the fake kilo, the real git, a real git server."""

from __future__ import annotations

import trio

from tests.git.test_merge_requests import merge_body
from tests.git.test_worktrees import FILES

SETUP = {"rigId": "r", "defaultBranch": "main"}


def spans(town, agent_id="pole-1"):
    return [line["phase"] for line in town.town.logged("agent.phase") if line["agent_id"] == agent_id]


async def test_a_polecat_starts_in_a_worktree_of_its_branch(git_town, quick_clock):
    tip = git_town.server.make("r", FILES)
    async with git_town() as town:
        answer = await town.start()
        assert (answer.status_code, answer.json()["workdir"]) == (201, str(town.worktree()))
        assert (town.worktree() / "dir/b.txt").read_text() == "two\n"
        assert (await town.git("pole-1", "rev-parse", "HEAD")).strip() == tip
        assert spans(town)[:5] == ["workspace", "credentials", "clone", "fetch", "worktree"]


async def test_a_refinery_gets_its_worktree_likewise(git_town, quick_clock):
    git_town.server.make("r", FILES)
    async with git_town() as town:
        assert (await town.start("ref-1", role="refinery")).status_code == 201


async def test_an_agent_pushes_with_the_environment_that_its_server_has(git_town, quick_clock):
    git_town.server.make("r", FILES)
    git_town.server.tokens = {"token-1"}
    async with git_town() as town:
        await town.start(envVars={"GIT_TOKEN": "token-1", "KILOCODE_TOKEN": "k"})
        await town.git("pole-1", "commit", "--allow-empty", "-m", "work")
        said = await town.git("pole-1", "push", "origin", "HEAD")
        assert "new branch" in said
        author = git_town.server.git("r", "log", "-1", "--format=%an", "work/pole-1").strip()
        assert author == "pole-1 (gastown)"


async def test_a_token_that_has_expired_is_renewed_by_the_worker_and_the_agent_pushes_with_the_new_one(
    git_town, quick_clock
):
    git_town.server.make("r", FILES)
    git_town.server.tokens = {"new"}
    async with git_town() as town:
        town.town.worker.git_token = "new"
        answer = await town.start(envVars={"GIT_TOKEN": "old", "KILOCODE_TOKEN": "k"})
        assert answer.status_code == 201
        assert [call.path for call in town.town.worker.asked("POST /refresh-git-token")] == [
            "/api/towns/oak/rigs/r/refresh-git-token"
        ]
        assert "new branch" in await town.git("pole-1", "push", "origin", "HEAD")


async def test_a_token_that_a_later_request_brings_is_live_for_the_next_push_of_a_running_agent(
    git_town, quick_clock
):
    """Nothing is restarted: the helper asks for the credentials of that moment."""
    git_town.server.make("r", FILES)
    async with git_town() as town:
        await town.start(envVars={"GIT_TOKEN": "old", "KILOCODE_TOKEN": "k"})
        spawned = len(town.town.kilo.spawns)
        git_town.server.tokens = {"newer"}
        await town.town.client.post(
            "/repos/setup",
            json={**SETUP, "gitUrl": git_town.server.url("r"), "envVars": {"GIT_TOKEN": "newer"}},
        )
        assert "new branch" in await town.git("pole-1", "push", "origin", "HEAD")
        assert len(town.town.kilo.spawns) == spawned


async def test_a_start_without_a_repository_says_so_and_what_to_do(git_town, quick_clock):
    async with git_town() as town:
        answer = await town.start()
        assert answer.status_code == 500
        assert answer.json() | {"error": ""} == {
            "error": "",
            "phase": "clone",
            "error_type": "RepositoryNotFound",
            "action": "Check the repository's address, and that its credentials may read it",
        }
        assert (await town.start("pole-2", rig="r2")).status_code == 500


async def test_a_start_that_runs_out_of_time_in_a_clone_names_it_and_the_next_one_finds_it_done(
    git_town, quick_clock
):
    git_town.server.make("r", FILES)
    git_town.server.hold = trio.Event()
    async with git_town(gastown_start_seconds=12.0) as town:
        answer = await town.start()
        assert (answer.status_code, answer.json()["phase"]) == (504, "clone")
        assert (await town.rig())["doing"] == "clone"
        git_town.server.hold.set()
        await town.until(town.settled_rig())
        git_town.server.hold = None
        assert (await town.start()).status_code == 201
        assert len(town.town.logged("git.cloned")) == 1


async def test_an_eviction_in_the_middle_of_a_clone_is_followed_by_a_fresh_start(git_town, quick_clock):
    git_town.server.make("r", FILES)
    git_town.server.hold = trio.Event()
    async with git_town() as town:
        town.town.later(town.start)
        await git_town.server.held.wait()
    assert [entry.name for entry in (town.root / "r").iterdir()] == []
    git_town.server.hold = None
    async with git_town() as town:
        assert (await town.start()).status_code == 201


async def test_an_agent_that_is_stopped_while_it_is_cloned_for_is_gone_at_once(git_town, quick_clock):
    git_town.server.make("r", FILES)
    git_town.server.hold = trio.Event()
    async with git_town() as town:
        start = town.town.later(town.start)
        await git_town.server.held.wait()
        stopped = await town.town.client.post("/agents/pole-1/stop")
        assert stopped.json() == {"stopped": True, "leftovers": []}
        assert (await start.result()).status_code == 500
        git_town.server.hold.set()


async def test_an_agent_of_the_last_container_finds_its_uncommitted_work(git_town, quick_clock):
    git_town.server.make("r", FILES)
    async with git_town() as town:
        await town.start()
        (town.worktree() / "a.txt").write_text("mine\n")
        entry = {"agentId": "pole-1", "request": town.request(), "workdir": str(town.worktree()), "env": {}}
    async with git_town() as town:
        town.town.worker.registry = [entry]
        await town.town.hydrated()
        assert (await town.town.status("pole-1"))["status"] == "running"
        assert (town.worktree() / "a.txt").read_text() == "mine\n"


async def test_an_agent_of_the_last_container_brings_its_token_in_the_registry(git_town, quick_clock):
    git_town.server.make("r", FILES)
    git_town.server.tokens = {"stored"}
    async with git_town() as town:
        env = {"GIT_TOKEN": "stored", "KILOCODE_TOKEN": "k"}
        entry = {"agentId": "pole-1", "request": town.request(), "workdir": str(town.worktree()), "env": env}
        town.town.worker.registry = [entry]
        await town.town.hydrated()
        assert (await town.town.status("pole-1"))["status"] == "running"


async def test_credentials_that_cannot_push_are_a_warning_and_not_a_failure(git_town, quick_clock):
    git_town.server.make("r", FILES)
    git_town.server.git("r", "config", "http.receivepack", "false")
    async with git_town() as town:
        assert (await town.start()).status_code == 201

        async def warned():
            return [e for e in await town.town.events("pole-1") if e["event"] == "git.push_refused"]

        assert "403" in (await town.until(warned))[0]["data"]["reason"]
        assert (await town.town.status("pole-1"))["status"] == "running"


async def test_a_setup_is_accepted_at_once_and_done_behind_the_answer(git_town, quick_clock):
    tip = git_town.server.make("r", FILES)
    git_town.server.hold = trio.Event()
    async with git_town() as town:
        body = {**SETUP, "gitUrl": git_town.server.url("r")}
        answer = await town.town.client.post("/repos/setup", json=body)
        assert (answer.status_code, answer.json()) == (
            202,
            {"status": "accepted", "message": "The repository of rig r is being set up"},
        )
        await git_town.server.held.wait()
        assert (await town.rig()) == {"rigId": "r", "state": "working", "doing": "clone"}
        git_town.server.hold.set()
        ready = await town.until(browse_of(town))
        assert ready == {"rigId": "r", "state": "ready", "browse": str(town.root / "r" / "browse")}
        assert (town.root / "r" / "browse" / "a.txt").read_text() == "one\n"
        assert (town.root / "r" / "browse" / ".git" / "index").is_file()
        assert tip


def browse_of(town, rig_id="r"):
    async def look():
        rig = await town.rig(rig_id)
        return rig if rig.get("state") == "failed" or (rig.get("browse") and rig["state"] == "ready") else None

    return look


async def test_a_setup_that_fails_is_told_by_health(git_town, quick_clock):
    async with git_town() as town:
        await town.town.client.post("/repos/setup", json={**SETUP, "gitUrl": git_town.server.url("r")})
        failed = await town.until(town.settled_rig())
        assert failed["state"] == "failed"
        assert "not found" in failed["error"]


async def test_a_draining_container_sets_nothing_up_and_merges_nothing(git_town, quick_clock):
    async with git_town() as town:
        town.town.opened.town.drain.ask("a test")
        setup = await town.town.client.post("/repos/setup", json={**SETUP, "gitUrl": "https://git.test/r"})
        assert setup.status_code == 503
        assert (await town.town.client.post("/git/merge", json=merge_body(git_town.server))).status_code == 503


def rigs(server, *names):
    return [{"rigId": name, "gitUrl": server.url(name), "defaultBranch": "main"} for name in names]


async def test_a_mayors_rigs_are_checked_out_for_it_behind_its_start_and_listed(git_town, quick_clock):
    for name in ("r1", "r2"):
        git_town.server.make(name, FILES)
    git_town.server.hold = trio.Event()
    told = [
        *rigs(git_town.server, "r1", "r2", "r3"),
        {"rigId": "r4", "gitUrl": "file:///x", "defaultBranch": "main"},
    ]
    async with git_town() as town:
        answer = await town.town.start(systemPrompt="Be kind.", rigs=told)
        assert answer.status_code == 201
        listed = town.root / "mayor-oak" / "mayor-workspace" / "AGENTS.md"
        assert "- r1: being fetched" in listed.read_text()
        git_town.server.hold.set()
        await town.until(lambda: listed.read_text().count("browse` (branch main)") == 2)
        await town.until(lambda: listed.read_text().count("not available") == 2)
        text = listed.read_text()
        assert text.startswith("Be kind.\n\n## Repositories of this town\n")
        assert (
            f"- r1: `{town.root}/r1/browse` (branch main)\n- r2: `{town.root}/r2/browse` (branch main)\n" in text
        )
        assert "- r3: not available: git clone failed" in text
        assert "- r4: not available: Its address must begin with https://, http://, ssh:// or git@" in text
        await town.town.client.put("/agents/mayor-1/system-prompt", json={"systemPrompt": "Be brief."})
        assert listed.read_text() == text.replace("Be kind.", "Be brief.")
