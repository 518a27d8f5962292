"""Browse worktrees against a real git server: they follow the remote, and lose nothing that was left in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from gastown.git.worktrees import Checkout, browse
from tests.git.conftest import Life, Place
from tests.git.test_worktrees import FILES, head, worktree


async def test_a_browse_worktree_follows_the_default_branch(place):
    place.server.make("r", FILES)
    rig = place.rig("r")
    async with place.life() as life:
        life.credentials.register_rig("r", rig.remote)
        first = await browse(life.repositories, rig)
        tip = place.server.commit("r", "main", {"a.txt": "newer\n"})
        second = await browse(life.repositories, rig)
        assert (first.how, second.how, second.commit) == ("created", "forwarded", tip)
        assert (Path(second.path) / "a.txt").read_text() == "newer\n"
    assert life.repositories.report("r").to_wire().browse == first.path


CRLF = {".gitattributes": "*.cs text eol=lf\n", "A.cs": "one\r\ntwo\r\n", "b.txt": "b\n"}


async def browsed(place: Place, life: Life) -> Checkout:
    rig = place.rig("r")
    life.credentials.register_rig("r", rig.remote)
    return await browse(life.repositories, rig)


PHANTOMS = {
    "line endings": CRLF,
    "mixed line endings": {".gitattributes": "*.cs text eol=crlf\n", "A.cs": "a\r\nb\n", "b.txt": "b"},
    "an ident": {".gitattributes": "*.cs ident\n", "A.cs": "$Id: mine$\n", "b.txt": "b"},
}


@pytest.mark.parametrize("kind", PHANTOMS)
async def test_a_browse_worktree_whose_files_differ_by_filters_only_moves_on(place, kind):
    """git calls such a file changed although nobody has touched it."""
    place.server.make("r", PHANTOMS[kind])
    async with place.life() as life:
        path = Path((await browsed(place, life)).path)
        await place.git(path, "update-index", "--really-refresh", check=False)
        assert await place.git(path, "status", "--porcelain")  # a phantom
        tip = place.server.commit("r", "main", {"A.cs": "other\n", "b.txt": "c"})
        again = await browsed(place, life)
        assert (again.how, again.commit, (path / "b.txt").read_text()) == ("forwarded", tip, "c")
        assert await place.git(path, "stash", "list") == ""
        assert sorted(place.names()) == ["browse", "repo"]


async def test_what_somebody_has_left_in_a_browse_worktree_is_kept_when_it_moves_on(place):
    place.server.make("r", FILES)
    async with place.life() as life:
        path = Path((await browsed(place, life)).path)
        await place.git(path, "commit", "--quiet", "--allow-empty", "-m", "of the mayor")
        own = await head(place, str(path))
        (path / "a.txt").write_text("noted\n")
        (path / "new.txt").write_text("new\n")
        tip = place.server.commit("r", "main", {"a.txt": "newest\n", "new.txt": "theirs\n"})
        assert (await browsed(place, life)).commit == tip
        assert {name: (path / name).read_text() for name in ("a.txt", "new.txt")} == {
            "a.txt": "newest\n",
            "new.txt": "theirs\n",
        }
        kept = await place.git(path, "show", "stash@{0}:a.txt") + await place.git(
            path, "show", "stash@{0}^3:new.txt"
        )
        assert kept == "noted\nnew\n"
        assert (await place.git(path, "rev-parse", f"gastown-kept-{own[:12]}")).strip() == own


@pytest.mark.parametrize("trouble", ["a merge that is not finished", "a branch of its own", "a damaged index"])
async def test_a_browse_worktree_moves_on_whatever_state_it_is_in(place, trouble):
    main = place.server.make("r", FILES)
    place.server.commit("r", "other", {"a.txt": "other\n"}, parent=main)
    async with place.life() as life:
        path = Path((await browsed(place, life)).path)
        if trouble == "a merge that is not finished":
            (path / "a.txt").write_text("mine\n")
            await place.git(path, "commit", "--quiet", "-a", "-m", "mine")
            await place.git(path, "merge", "origin/other", check=False, life=life)
            assert "UU a.txt" in await place.git(path, "status", "--porcelain")
        elif trouble == "a branch of its own":
            await place.git(path, "switch", "--quiet", "-c", "mine")
        else:
            (path / ".git" / "index").write_bytes(b"DIRC nonsense")
        tip = place.server.commit("r", "main", {"a.txt": "newest\n"})
        again = await browsed(place, life)
        assert (again.commit, (path / "a.txt").read_text()) == (tip, "newest\n")
        if trouble == "a merge that is not finished":
            (aside,) = place.room().glob(".aside-browse-*")
            assert "<<<<<<<" in (aside / "a.txt").read_text()


async def test_a_worktree_whose_files_differ_by_filters_only_is_forwarded(place):
    place.server.make("r", CRLF)
    async with place.life() as life:
        made = await worktree(place, life)
        path = Path(made.path)
        await place.git(path, "push", "origin", "work/1", life=life)
        await place.git(path, "update-index", "--really-refresh", check=False)
        tip = place.server.commit("r", "work/1", {"A.cs": "other\n"})
        again = await worktree(place, life)
    assert (again.how, again.commit, (path / "A.cs").read_text()) == ("forwarded", tip, "other\n")


async def test_a_browse_worktree_of_a_default_branch_that_is_missing_follows_the_remotes_head(place):
    """And makes up no branch of that name; what is known of the rig says so."""
    place.server.make("r", FILES, branch="trunk")
    rig = place.rig("r")
    async with place.life() as life:
        life.credentials.register_rig("r", rig.remote)
        path = Path((await browse(life.repositories, rig)).path)
        tip = place.server.commit("r", "trunk", {"a.txt": "newer\n"})
        assert (await browse(life.repositories, rig)).commit == tip
        notice = life.repositories.report("r").to_wire().notice
    assert notice == "The repository has no branch main; the one that its HEAD names is used"
    known = await place.git(path, "for-each-ref", "--format=%(refname) %(objectname)", "refs/remotes")
    assert known.splitlines() == [f"refs/remotes/origin/HEAD {tip}", f"refs/remotes/origin/trunk {tip}"]
