"""Merges against a real git server: pushed once, conflicts named, races retried, nothing forced or left."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from gastown.contract.secret import Secret
from gastown.git.command import run_git
from gastown.git.errors import AuthFailed, Conflict, GitError, GitFailed, NameAmbiguous, NetworkFailed
from gastown.git.merging.merge import Merged, merge
from gastown.git.merging.merge import _conflicts as conflicts
from gastown.git.rig import GitLimits
from tests.git.conftest import Life, Place
from tests.git.test_worktrees import FILES, worktree

MESSAGE = "Merge branch 'work/1' into main\n\nBead: b-1\n"


async def merged(place: Place, life: Life, target: str = "main", **more) -> Merged:
    rig = place.rig("r")
    life.credentials.register_rig("r", rig.remote, given=more.pop("given", None))
    return await merge(life.repositories, rig, "work/1", target, message=MESSAGE, **more)


def make(place: Place, ours: dict[str, str] | None = None, theirs: dict[str, str] | None = None) -> str:
    """main with `FILES`, a branch with `theirs`, and `ours` on main since then; returns the branch's tip."""
    base = place.server.make("r", FILES)
    branch = place.server.commit("r", "work/1", theirs or {"new.txt": "new\n"}, parent=base)
    if ours:
        place.server.commit("r", "main", ours)
    return branch


async def test_a_branch_is_merged_with_a_merge_commit_and_pushed(place):
    branch = make(place)
    main = place.server.tip("r", "main")
    async with place.life() as life:
        result = await merged(place, life)
    assert result == Merged(place.server.tip("r", "main"), pushed=True)
    assert place.server.git("r", "rev-list", "--parents", "-1", "main").split()[1:] == [main, branch]
    assert place.server.read("r", "main", "new.txt") == "new\n"
    assert place.server.git("r", "log", "-1", "--format=%B|%an|%ae", "main").strip() == (
        "Merge branch 'work/1' into main\n\nBead: b-1\n|gastown|gastown@gastown.local"
    )
    assert place.server.branches("r") == ["main", "work/1"]


async def test_nothing_of_the_merge_is_left_in_the_rigs_room(place):
    make(place)
    async with place.life() as life:
        await merged(place, life)
        clone = place.clone()
        assert place.names() == {"repo"}
        assert len((await place.git(clone, "worktree", "list")).splitlines()) == 1
        assert await place.git(clone, "for-each-ref", "refs/heads") == ""


async def test_a_conflict_names_its_files_and_changes_nothing(place):
    make(
        place,
        ours={"a.txt": "ours\n", "dir/b.txt": "ours\n", "fine.txt": "x\n"},
        theirs={"a.txt": "theirs\n", "dir/b.txt": "theirs\n", "ünï cödé.txt": "y\n"},
    )
    before = place.server.tip("r", "main")
    async with place.life() as life:
        with pytest.raises(Conflict, match=r"^Merge conflict in 2 files: a.txt, dir/b.txt$") as caught:
            await merged(place, life)
        assert caught.value.files == ("a.txt", "dir/b.txt")
        assert life.repositories.report("r").to_wire().state == "ready"
    assert place.server.tip("r", "main") == before
    assert place.names() == {"repo"}


async def test_a_file_that_one_side_deleted_and_the_other_changed_is_a_conflict(place):
    base = place.server.make("r", FILES)
    place.server.commit("r", "work/1", {"a.txt": "theirs\n"}, parent=base)
    place.server.git(
        "r",
        "fast-import",
        "--quiet",
        stdin=(f"commit refs/heads/main\ncommitter T <t@t> 1700000000 +0000\ndata 1\nx\nfrom {base}\nD a.txt\n"),
    )
    async with place.life() as life:
        with pytest.raises(Conflict) as caught:
            await merged(place, life)
    assert caught.value.files == ("a.txt",)


async def test_a_branch_that_is_merged_already_is_merged(place):
    make(place)
    async with place.life() as life:
        first = await merged(place, life)
        second = await merged(place, life)
    assert second == Merged(first.commit, pushed=False)


@pytest.mark.parametrize("missing", ["work/1", "target"])
async def test_a_branch_that_is_not_there_is_named(place, missing):
    make(place) if missing == "target" else place.server.make("r", FILES)
    async with place.life() as life:
        with pytest.raises(GitError, match=f"has no branch {missing}"):
            await merged(place, life, target="target" if missing == "target" else "main")


RACES = {
    "before the push": lambda asked: asked.query.endswith("receive-pack"),
    "during the push": lambda asked: asked.path.endswith("git-receive-pack"),
}


@pytest.mark.parametrize("moment", RACES)
async def test_a_push_that_lost_a_race_is_merged_again_on_what_won(place, moment):
    branch = make(place)
    won: list[str] = []

    def somebody_else_pushes(asked) -> None:
        if RACES[moment](asked) and len(won) < 2:
            won.append(place.server.commit("r", "main", {f"other-{len(won)}.txt": "x\n"}))

    place.server.before = somebody_else_pushes
    async with place.life() as life:
        result = await merged(place, life)
    assert place.server.git("r", "rev-list", "--parents", "-1", "main").split() == [result.commit, won[1], branch]
    assert place.names() == {"repo"}


@pytest.mark.parametrize("moment", RACES)
async def test_a_race_that_is_lost_again_and_again_is_given_up_and_never_forced(place, moment):
    make(place)
    won: list[str] = []

    def somebody_else_pushes(asked) -> None:
        if RACES[moment](asked):
            won.append(place.server.commit("r", "main", {f"other-{len(won)}.txt": "x\n"}))

    place.server.before = somebody_else_pushes
    async with place.life() as life:
        with pytest.raises(GitError, match="Somebody else pushed to main first, 5 times"):
            await merged(place, life)
    assert (len(won), place.server.tip("r", "main")) == (5, won[-1])


async def test_a_race_that_turns_into_a_conflict_is_one(place):
    make(place, theirs={"a.txt": "theirs\n"})

    def somebody_else_pushes(asked) -> None:
        if asked.path.endswith("git-receive-pack"):
            place.server.commit("r", "main", {"a.txt": "ours\n"})

    place.server.before = somebody_else_pushes
    async with place.life() as life:
        with pytest.raises(Conflict):
            await merged(place, life)


async def test_a_branch_that_the_remote_protects_is_not_tried_again(place):
    make(place)
    hook = place.server.bare("r") / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\necho 'main is protected' >&2\nexit 1\n")
    hook.chmod(0o755)
    async with place.life() as life:
        with pytest.raises(GitError, match="pre-receive hook declined"):
            await merged(place, life)
    assert len([asked for asked in place.server.asked if asked.query.endswith("receive-pack")]) == 1


async def test_a_token_that_expires_between_merge_and_push_is_renewed(place):
    make(place)
    place.server.tokens = {"old"}
    place.source.fresh = ["new"]

    def expire(asked) -> None:
        if asked.query.endswith("receive-pack"):
            place.server.tokens = {"new"}

    place.server.before = expire
    async with place.life() as life:
        result = await merged(place, life, given={"GIT_TOKEN": Secret("old")})
    assert (place.server.tip("r", "main"), place.source.renewals) == (result.commit, ["r"])


async def test_a_merge_without_credentials_fails_as_such_and_leaves_nothing(place):
    make(place)
    async with place.life() as life:
        await merged(place, life, target="work/1")
        place.server.tokens = {"t"}
        with pytest.raises(AuthFailed):
            await merged(place, life)
        place.server.broken = True
        with pytest.raises(NetworkFailed):
            await merged(place, life)
    assert place.names() == {"repo"}


async def test_a_merge_that_is_cancelled_leaves_nothing_and_the_next_one_works(place):
    make(place)
    async with place.life() as life:
        await merged(place, life, target="work/1")
        place.server.hold = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(merged, place, life)
            await place.server.held.wait()
            nursery.cancel_scope.cancel()
        assert place.names() == {"repo"}
        place.server.hold = None
        assert (await merged(place, life)).pushed


async def test_what_a_killed_container_left_of_a_merge_is_removed_by_the_next(place):
    make(place)
    async with place.life() as life:
        await merged(place, life, target="work/1")
        clone = place.clone()
        await place.git(clone, "worktree", "add", "--quiet", "--detach", str(clone.parent / ".merge-1234"), "HEAD")
    async with place.life() as life:
        await merged(place, life)
        assert place.names() == {"repo"}
        assert len((await place.git(clone, "worktree", "list")).splitlines()) == 1


async def test_a_merge_does_not_touch_the_worktree_of_its_branch(place):
    make(place)
    async with place.life() as life:
        made = await worktree(place, life)
        (Path(made.path) / "a.txt").write_text("not committed\n")
        await merged(place, life)
        assert (Path(made.path) / "a.txt").read_text() == "not committed\n"
        assert (await place.git(Path(made.path), "rev-parse", "HEAD")).strip() == made.commit


async def test_hooks_of_the_shared_clone_do_not_run_in_our_operations(place):
    """An agent can write there; what the control server does must not run it."""
    make(place)
    async with place.life() as life:
        await worktree(place, life)
        for name in ("post-checkout", "pre-merge-commit", "pre-push", "reference-transaction"):
            hook = place.clone() / ".git" / "hooks" / name
            hook.parent.mkdir(exist_ok=True)
            hook.write_text(f"#!/bin/sh\ntouch {place.folder}/ran-{name}\nexit 1\n")
            hook.chmod(0o755)
        assert (await merged(place, life)).pushed
    assert list(place.folder.glob("ran-*")) == []


async def test_a_merge_has_a_deadline_as_a_whole(place):
    make(place)
    place.limits = GitLimits(clone=60, operation=4.0)
    async with place.life() as life:
        await merged(place, life, target="work/1")
        place.server.hold = trio.Event()
        with pytest.raises(GitError, match="git merge did not end within 4 s"):
            await merged(place, life)


async def test_a_token_that_expires_inside_a_merge_is_renewed_and_the_merge_repeated(place):
    """git fetches files that only the merge needs while it merges."""
    branch, cut = make(place), []

    async def run(*arguments: str, **options) -> str:
        if arguments[0] == "merge-tree" and not cut:
            cut.append(await run_git(*arguments, **options))
            raise AuthFailed("merge-tree", 128, "fatal: Authentication failed")
        return await run_git(*arguments, **options)

    place.run, place.source.fresh = run, ["new"]
    async with place.life() as life:
        result = await merged(place, life)
    assert (len(cut), place.source.renewals, result.pushed) == (1, ["r"], True)
    assert place.server.git("r", "rev-list", "--parents", "-1", "main").split()[2] == branch


async def test_a_merge_that_fails_without_unmerged_files_is_no_conflict(place):
    """A full disk or a killed git is nothing that the branch's author could resolve."""
    make(place)

    async def run(*arguments: str, **options) -> str:
        if arguments[0] == "merge-tree":
            raise GitFailed("merge-tree", 128, "fatal: write error: No space left on device")
        return await run_git(*arguments, **options)

    place.run = run
    async with place.life() as life:
        with pytest.raises(GitFailed, match="No space left"):
            await merged(place, life)


async def test_a_file_that_differs_from_its_line_endings_only_is_in_the_way_of_no_merge(place):
    """A checkout calls it changed, and git refuses to merge over what is changed."""
    base = place.server.make("r", {".gitattributes": "*.cs text eol=lf\n", "A.cs": "one\r\ntwo\r\n"})
    place.server.commit("r", "work/1", {"A.cs": "one\r\nthree\r\n"}, parent=base)
    place.server.commit("r", "main", {"b.txt": "b\n"})
    async with place.life() as life:
        assert (await merged(place, life)).pushed
    assert place.server.git("r", "cat-file", "-s", "main:A.cs").strip() == str(len("one\r\nthree\r\n"))
    changed = place.server.git("r", "diff", "--name-only", "main^1", "main").split()
    assert changed == ["A.cs"]


@pytest.mark.parametrize("where", [".gitattributes", "dir/.gitattributes"])
async def test_files_are_merged_as_the_targets_attributes_say(place, where):
    """Both sides add a line at the same place, which is a conflict where nothing says otherwise."""
    pattern = "*.log merge=union\n"
    base = place.server.make("r", {where: pattern, "dir/x.log": "one\n"})
    place.server.commit("r", "work/1", {"dir/x.log": "one\ntheirs\n"}, parent=base)
    place.server.commit("r", "main", {"dir/x.log": "one\nours\n"})
    async with place.life() as life:
        await merged(place, life)
    assert place.server.read("r", "main", "dir/x.log") == "one\nours\ntheirs\n"


async def test_a_conflict_in_a_file_whose_name_is_no_text_is_named_so_that_it_can_be_written(place):
    base = place.server.make("r", FILES)
    for branch, content in (("work/1", "theirs"), ("main", "ours")):
        commit = f"commit refs/heads/{branch}\ncommitter T <t@t> 1700000000 +0000\ndata 1\nx\nfrom {base}\n"
        change = f'M 100644 inline "caf\\351.txt"\ndata {len(content)}\n{content}\n'
        place.server.git("r", "fast-import", "--quiet", "--force", stdin=commit + change)
    async with place.life() as life:
        with pytest.raises(Conflict) as caught:
            await merged(place, life)
    assert (caught.value.files, caught.value.names) == (("caf\N{REPLACEMENT CHARACTER}.txt",), (b"caf\xe9.txt",))
    str(caught.value).encode()  # no lone surrogate


async def test_a_conflict_that_is_in_no_file_names_the_paths_of_its_message(place):
    """Each side renames a directory to another place, and one adds a file to it."""
    answer = b"0" * 40 + b"\0\0" + b"1\0dir/new.txt\0CONFLICT (directory rename split)\0CONFLICT: unclear\n\0"
    assert conflicts(answer) == (b"dir/new.txt",)


async def test_a_git_that_is_too_old_is_named_as_the_reason(place):
    make(place)

    async def run(*arguments: str, **options) -> str:
        if arguments[0] == "merge-tree":
            raise GitFailed("merge-tree", 129, "usage: git merge-tree <base-tree> <branch1> <branch2>")
        return await run_git(*arguments, **options)

    place.run = run
    async with place.life() as life:
        with pytest.raises(GitError, match=r"git 2\.38 or newer"):
            await merged(place, life)


@pytest.mark.parametrize("failure", ["missing", "protected", "unrelated"])
async def test_what_is_one_merges_failure_is_not_the_rigs(place, failure):
    make(place) if failure != "missing" else place.server.make("r", FILES)
    if failure == "protected":
        hook = place.server.bare("r") / "hooks" / "pre-receive"
        hook.write_text("#!/bin/sh\nexit 1\n")
        hook.chmod(0o755)
    if failure == "unrelated":
        stream = "commit refs/heads/work/1\ncommitter T <t@t> 1700000000 +0000\ndata 1\nx\n"
        place.server.git("r", "update-ref", "-d", "refs/heads/work/1")
        place.server.git("r", "fast-import", "--quiet", "--force", stdin=stream)
    async with place.life() as life:
        with pytest.raises(GitError):
            await merged(place, life)
        assert life.repositories.report("r").to_wire().state == "ready"


@pytest.mark.parametrize("name", ["refs/heads/refs/heads/main", "refs/tags/refs/heads/main"])
async def test_a_reference_that_is_called_as_the_target_is_named_with_what_to_do(place, name):
    """git takes refs/heads/main for either, and pushes to none: it has to go, and then the merge works."""
    make(place)
    place.server.git("r", "update-ref", name, "refs/heads/main")
    async with place.life() as life:
        with pytest.raises(NameAmbiguous, match=r"itself called refs/heads/main, .* delete it there \(git push"):
            await merged(place, life)
        assert life.repositories.report("r").to_wire().state == "ready"
        await place.git(place.clone(), "push", "--quiet", "origin", f":{name}", life=life)
        assert (await merged(place, life)).pushed
