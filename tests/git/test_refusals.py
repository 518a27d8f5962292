"""Logins that a remote refuses: which one comes next, and for which repositories. Against a real git server."""

from __future__ import annotations

import pytest

from gastown.contract.git import Remote
from gastown.contract.secret import Secret
from gastown.contract.town import GitAuth
from gastown.git.errors import AuthFailed, RepositoryNotFound
from tests.git.test_credentials import given
from tests.git.test_worktrees import FILES, worktree


@pytest.mark.parametrize("refusal", [401, 403])
@pytest.mark.parametrize("moment", ["before the clone", "in the middle of the clone", "before the files"])
async def test_a_token_that_expires_is_renewed_once_and_the_start_goes_on(place, refusal, moment):
    place.server.make("r", FILES)
    place.server.tokens, place.server.refusal = {"old"}, refusal
    place.source.fresh = ["new"]
    asked_after = {"before the clone": 0, "in the middle of the clone": 1, "before the files": 3}[moment]

    def expire(asked) -> None:
        if len([a for a in place.server.asked if a.status == 200]) == asked_after:
            place.server.tokens = {"new"}

    place.server.before = expire
    if moment == "before the clone":
        place.server.tokens = {"new"}
    async with place.life() as life:
        given(place, life, "old")
        made = await worktree(place, life)
    assert (made.how, place.source.renewals) == ("created", ["r"])
    assert place.server.passwords()[-1] == "new"


async def test_a_token_that_cannot_be_renewed_is_an_auth_failure_after_one_try(place):
    place.server.make("r", FILES)
    place.server.tokens = {"nobody-has-this"}
    async with place.life() as life:
        given(place, life, "old-token")
        with pytest.raises(AuthFailed) as caught:
            await worktree(place, life)
    assert place.source.renewals == ["r"]
    assert "your token [redacted] is not good" in caught.value.stderr
    assert "old-token" not in str(caught.value) + caught.value.stderr


@pytest.mark.parametrize("refusal", [401, 404])
async def test_each_login_is_tried_before_a_repository_counts_as_closed(place, refusal):
    """GitHub shows no repository at all to a token that may not read it."""
    place.server.make("r", FILES)
    place.server.tokens, place.server.refusal = {"of-the-rig"}, refusal
    place.town = GitAuth(gitlab_instance_url=place.server.origin, gitlab_token=Secret("of-the-town"))
    async with place.life() as life:
        remote = Remote.parse(f"http://user:of-the-address@127.0.0.1:{place.server.port}/r.git")
        life.credentials.register_rig("r", remote, given={"GITLAB_TOKEN": Secret("of-the-rig")}, since=-1)
        made = await worktree(place, life)
    assert made.how == "created"
    assert place.server.passwords() == [None, "of-the-town", "of-the-address", "of-the-rig"]
    assert place.source.renewals == []


async def test_a_repository_that_no_login_sees_is_asked_for_once_with_each(place):
    place.server.make("r", FILES)
    place.server.tokens, place.server.refusal = {"nobody-has-this"}, 404
    async with place.life() as life:
        given(place, life, "only")
        with pytest.raises(RepositoryNotFound):
            await worktree(place, life)
    assert [asked.password for asked in place.server.asked if asked.password] == ["only"]


async def test_a_token_to_which_one_repository_does_not_show_itself_stays_the_first_for_the_others(place):
    """A rig with a misspelt address says nothing about the token that it shares with others."""
    place.server.make("r", FILES)
    place.server.tokens, place.server.refusal = {"nobody-has-this"}, 404
    async with place.life() as life:
        remote = Remote.parse(f"http://user:of-the-address@127.0.0.1:{place.server.port}/r.git")
        life.credentials.register_rig("r", remote)
        for rig in ("r", "misspelt"):
            given(place, life, "shared", rig)
        with pytest.raises(RepositoryNotFound):
            await worktree(place, life, rig="misspelt")
        place.server.tokens = {"shared", "of-the-address"}
        place.server.asked.clear()
        await worktree(place, life)
    assert place.server.passwords() == [None, "shared"]


async def test_a_new_token_that_is_refused_too_is_not_renewed_again_and_again(place):
    place.server.make("r", FILES)
    place.server.tokens = {"nobody-has-this"}
    place.source.fresh = ["new-1", "new-2", "new-3"]
    async with place.life() as life:
        given(place, life, "old")
        for _ in range(3):
            with pytest.raises(AuthFailed):
                await worktree(place, life)
    assert place.source.renewals == ["r"]
