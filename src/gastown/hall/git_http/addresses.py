"""Where a container finds the folders of its town: at the hall, with a login that the hall gives out."""

from __future__ import annotations

from datetime import datetime

from gastown.contract.secret import Secret
from gastown.hall.domain.town import TownRecord, located
from gastown.hall.store.database import Store
from gastown.hall.tokens import Scope, mint

__all__ = ["git_token", "town_at"]


async def git_token(store: Store, town_id: str, now: datetime) -> Secret | None:
    """A new token for git in the folders of a town; None when there is no such town."""
    secret = await store.jwt_secret(town_id)
    return None if secret is None else mint(secret, town_id, now, Scope.GIT)


async def town_at(store: Store, town_id: str, url: str, now: datetime) -> TownRecord | None:
    """The town, with the addresses of its repositories for a container that reaches the hall at `url`."""
    town = await store.town(town_id)
    if town is None or all(rig.folder is None for rig in town.rigs):
        return town
    token = await git_token(store, town_id, now)
    return town if token is None else located(town, url, token)
