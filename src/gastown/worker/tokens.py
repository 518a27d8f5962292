"""The credentials of the town: one immutable value, replaced in one place."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from gastown.concurrency.signal import Signal
from gastown.contract.secret import Secret, credentials_among
from gastown.contract.town import GitAuth, TownConfig
from gastown.contract.worker import MayorContext

__all__ = ["IN_REGISTRY", "IN_REGISTRY_ENVIRONMENT", "Credentials", "LiveCredentials", "expiry"]

AT_BOOT, IN_REGISTRY_ENVIRONMENT, IN_REGISTRY = range(3)
"""The first generations: what the process was started with, the environment of a registry entry, and its request.
All that is given while the container runs is newer.
"""

RENEW_BELOW_SECONDS = 30 * 60
"""At boot, a container token with less than this left is refreshed first (contract section 2)."""


@dataclass(frozen=True)
class Credentials:
    """What the town's calls and children carry now. `generation` grows with every replacement.

    `since` holds the generation of each of the town's credentials whose value has changed since the boot. `town`
    is the newest configuration that anyone told us. `retired_names` are variables that were custom once and are
    gone from it: a stored request may still name them, and no child gets them any more.
    """

    container_token: Secret | None = None
    session_token: Secret | None = None
    town: TownConfig = field(default_factory=TownConfig)
    retired_names: frozenset[str] = frozenset()
    generation: int = 0
    since: Mapping[str, int] = field(default_factory=dict)

    def generation_of(self, name: str) -> int:
        """When the town's value of a token, or its `organization_id`, was given."""
        return self.since.get(name, AT_BOOT)

    def tokens(self) -> dict[str, Secret | None]:
        """The town's tokens by the names that agents know them by."""
        git = self.town.git_auth
        return {
            "KILOCODE_TOKEN": self.town.kilocode_token,
            "GIT_TOKEN": git.github_token,
            "GITHUB_TOKEN": git.github_token,
            "GITLAB_TOKEN": git.gitlab_token,
            "GITLAB_INSTANCE_URL": Secret(git.gitlab_instance_url or ""),
            "GITHUB_CLI_PAT": self.town.github_cli_pat,
        }

    def secrets(self) -> Iterator[Secret]:
        """Every value that must never be seen, for the log's redaction."""
        town = self.town
        for value in (
            self.container_token,
            self.session_token,
            town.kilocode_token,
            town.github_cli_pat,
            town.git_auth.github_token,
            town.git_auth.gitlab_token,
        ):
            if value:
                yield value
        yield from credentials_among(town.env_vars)


class LiveCredentials:
    """The one place where credentials change. Readers take `current` at the moment of use and keep no copy."""

    def __init__(self, initial: Credentials) -> None:
        self.current = initial
        self._generation = IN_REGISTRY
        self._town_given = AT_BOOT
        self._token_given = Signal()

    def next_generation(self) -> int:
        """The town's one counter: of two things that were given, the later one has the higher number."""
        self._generation += 1
        return self._generation

    def replace_token(self, token: Secret) -> None:
        """From now on every call to the worker carries `token`."""
        self._replace(container_token=token)
        self._token_given.send()

    async def token_after(self, token: Secret | None) -> None:
        """Return once the live container token is not `token`. The same text, given again, is another token."""
        await self._token_given.wait_until(lambda: self.current.container_token is not token)

    def replace_town(self, config: TownConfig, given: int | None = None) -> bool:
        """Take a whole new town configuration; what it does not say is no longer so. Returns whether it differs.

        Every request may repeat the configuration: a credential is given again only when its value differs.
        `given` is the generation of the request that brought it, None for one of this moment. When a later request
        has brought one already, nothing changes.
        """
        given = self.next_generation() if given is None else given
        if given < self._town_given:
            return False
        self._town_given = given
        return self._take_town(config, given)

    def _take_town(self, config: TownConfig, given: int) -> bool:
        before = self.current
        if (config, config.model_fields_set) == (before.town, before.town.model_fields_set):
            return False  # with the keys that it names: an organisation of null is not the same as none
        ever = before.retired_names | set(before.town.env_vars)
        self._replace(town=config, retired_names=ever - set(config.env_vars))
        old, new = _given(before), _given(self.current)
        changed = [name for name, value in new.items() if value != old[name]]
        since = {**before.since, **dict.fromkeys(changed, given)}
        self.current = replace(self.current, since=since)
        return True

    def adopt_context(self, context: MayorContext, given: int | None = None) -> None:
        """Take the mayor context as the town configuration, so that the prewarm derives what the start will.

        `given` is the generation in which it was asked for, None for one of this moment. What a request's header
        has said already is kept: it says more than an older worker's context does.
        """
        config = TownConfig(
            kilocode_token=context.kilocode_token,
            git_auth=GitAuth(
                github_token=context.github_token,
                gitlab_token=context.gitlab_token,
                gitlab_instance_url=context.gitlab_instance_url,
            ),
            github_cli_pat=context.github_cli_pat,
            git_author_name=context.git_author_name,
            git_author_email=context.git_author_email,
            disable_ai_coauthor=context.disable_ai_coauthor,
            env_vars=context.env_vars,
        )
        if context.knows_organization:
            config = config.model_copy(update={"organization_id": context.organization_id})
        said = self.current.town.model_dump(exclude_defaults=True)
        merged = TownConfig.model_validate(config.model_dump(exclude_unset=True) | said)
        self._take_town(merged, self.next_generation() if given is None else given)

    def _replace(self, **changes: Any) -> None:
        self.current = replace(self.current, generation=self.current.generation + 1, **changes)


def _given(credentials: Credentials) -> dict[str, object]:
    """What has a generation of its own; an organisation of null is not the same as none."""
    town = credentials.town
    organization = ("organization_id" in town.model_fields_set, town.organization_id)
    return {**credentials.tokens(), "organization_id": organization}


def expiry(token: Secret) -> float | None:
    """The `exp` of a JWT in epoch seconds; None when there is none to read. The signature is not our concern."""
    try:
        payload = token.reveal().split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        moment = float(claims["exp"])
    except (IndexError, KeyError, TypeError, ValueError, OverflowError, RecursionError):
        return None
    return moment if math.isfinite(moment) else None
