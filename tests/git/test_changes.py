"""What a branch would bring, over HTTP and with a real git: asked for before a merge, without a checkout."""

from __future__ import annotations

from tests.git.test_worktrees import FILES


async def set_up(town, rig="r"):
    body = {"rigId": rig, "gitUrl": town.server.url(rig), "defaultBranch": "main"}
    assert (await town.town.client.post("/repos/setup", json=body)).status_code == 202
    await town.until(town.settled_rig(rig))


async def asked(town, query):
    answer = await town.town.client.get(f"/rigs/r/changes?{query}")
    return answer.status_code, answer.json()


async def test_what_a_branch_changes_is_told_with_its_commit_and_the_newest_of_it(git_town, quick_clock):
    base = git_town.server.make("r", FILES)
    git_town.server.commit("r", "work/1", {"a.txt": "one\nmore\n", "bin": "\0\0"}, parent=base)
    git_town.server.commit("r", "main", {"other.txt": "other\n"})
    async with git_town() as town:
        await set_up(town)
        head = git_town.server.commit("r", "work/1", {"new.txt": "new\n"})
        status, told = await asked(town, "branch=work/1&target=main")
        assert status == 200
        patch = told.pop("patch")
        assert told == {
            "rigId": "r", "branch": "work/1", "target": "main", "head": head, "base": base,
            "files": [
                {"path": "a.txt", "added": 1, "removed": 0}, {"path": "bin"},
                {"path": "new.txt", "added": 1, "removed": 0},
            ],
            "filesCut": False, "patchCut": False,
        }  # fmt: skip
        assert "+more" in patch
        assert "other.txt" not in patch
        assert (await asked(town, "branch=work/1"))[1]["target"] == "main"


async def test_a_branch_that_has_nothing_of_its_own_changes_nothing(git_town, quick_clock):
    base = git_town.server.make("r", FILES)
    git_town.server.git("r", "update-ref", "refs/heads/work/1", base)
    git_town.server.commit("r", "main", {"other.txt": "other\n"})
    async with git_town() as town:
        await set_up(town)
        _, told = await asked(town, "branch=work/1")
        assert (told["head"], told["base"], told["files"], told["patch"]) == (base, base, [], "")


async def test_a_long_patch_is_cut_and_says_so(git_town, quick_clock):
    base = git_town.server.make("r", FILES)
    long = "".join(f"line {number}\n" for number in range(100_000))
    git_town.server.commit("r", "work/1", {"long.txt": long}, parent=base)
    async with git_town() as town:
        await set_up(town)
        _, told = await asked(town, "branch=work/1")
        assert told["files"] == [{"path": "long.txt", "added": 100_000, "removed": 0}]
        assert (told["patchCut"], told["patch"].endswith("\n")) == (True, True)
        assert 500_000 < len(told["patch"]) <= 512 * 1024


async def test_what_cannot_be_told_is_refused_with_the_reason(git_town, quick_clock):
    git_town.server.make("r", FILES)
    async with git_town() as town:
        assert (await asked(town, "branch=main"))[0] == 404
        await set_up(town)
        assert await asked(town, "branch=work/1") == (404, {"error": "The repository has no branch work/1"})
        for query in ("", "branch=-x", "branch=main&target=a..b"):
            assert (await asked(town, query))[0] == 400
        git_town.server.broken = True
        status, told = await asked(town, "branch=main")
        assert status == 502
        assert told["error"]
