"""A start that joins an equal one brings its credentials with it: they are the newer ones."""

from __future__ import annotations

from typing import Any

import pytest
import trio

pytestmark = pytest.mark.virtual_time

OLD = {"KILOCODE_TOKEN": "kilo-one", "GIT_TOKEN": "git-one"}
NEW = {"KILOCODE_TOKEN": "kilo-two", "GIT_TOKEN": "git-two"}


async def join(town: Any, after: float, **changes: Any) -> None:
    first = town.start_soon("pole-1", envVars=OLD, **changes)
    await trio.sleep(after)
    second = town.start_soon("pole-1", envVars=NEW, **changes)
    assert [(await start.result()).status_code for start in (first, second)] == [201, 201]
    assert town.kilo.order == ["pole-1"]


@pytest.mark.parametrize("after", [0.0, 0.5, 2.3])
async def test_the_next_container_and_git_are_told_of_the_newer_tokens(town_on_fakes, after: float) -> None:
    """Also where git was told of the older ones already."""
    async with town_on_fakes() as town:
        await join(town, after)
        here = town.opened.town
        (entry,) = here.roster.registry()
        for told in (entry.env, entry.request.env_vars):
            assert {name: told[name].reveal() for name in NEW} == NEW
        given = here.services.repositories.tools.credentials
        login = await given.login("rig-1", "-test", "https://git.test", "r.git")
        assert login is not None
        assert login.password.reveal() == "git-two"


async def test_neither_the_older_nor_the_newer_tokens_are_logged(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await join(town, 0.5)
        known = {secret.reveal() for secret in town.opened.town.roster.secrets()}
        assert known >= {*OLD.values(), *NEW.values()}
