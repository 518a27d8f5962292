"""What is wanted of an agent, and which of its credentials count: those given last."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from gastown.contract.agents import StartAgentRequest
from gastown.contract.secret import Secret
from gastown.worker.tokens import IN_REGISTRY, IN_REGISTRY_ENVIRONMENT, Credentials

__all__ = [
    "MOST_BYTES",
    "MOST_BYTES_TOGETHER",
    "TOKEN_NAMES",
    "ContainerDefaults",
    "Desired",
    "Effective",
    "effective",
    "is_reserved",
    "size_of",
]

MOST_BYTES = 131_071
"""Of NAME=value: with a longer one no process starts (MAX_ARG_STRLEN of Linux)."""
MOST_BYTES_TOGETHER = 1024 * 1024
"""Of all custom variables: half of what Linux gives a process for its variables and arguments."""

_RESERVED = re.compile(
    r"(?:KILOCODE_TOKEN|GIT_TOKEN|GITHUB_TOKEN|GITLAB_TOKEN|GITLAB_INSTANCE_URL|GITHUB_CLI_PAT|GH_TOKEN"
    r"|GASTOWN_.*|KILO_.*|OPENCODE_.*|KILOCODE_.*|PATH|HOME|LD_.*|NODE_OPTIONS|BUN_.*|PYTHON.*|XDG_DATA_HOME"
    r"|GIT_(?:AUTHOR|COMMITTER)_.*)\Z",
    re.DOTALL,
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
TOKEN_NAMES = (
    "KILOCODE_TOKEN",
    "GIT_TOKEN",
    "GITHUB_TOKEN",
    "GITLAB_TOKEN",
    "GITLAB_INSTANCE_URL",
    "GITHUB_CLI_PAT",
)
_ORGANIZATION = "organization_id"
_BY_DEFAULT = -1


@dataclass(frozen=True)
class ContainerDefaults:
    """What counts where neither a request nor the town says anything."""

    kilocode_token: Secret | None = None
    organization_id: str | None = None


@dataclass(frozen=True)
class Desired:
    """What is wanted of an agent. Immutable: a change makes another value.

    `given` is the generation of the start request, `changes` that of each field that was changed after it, both
    from the town's one counter (`LiveCredentials.next_generation`). `inherited` is the environment of a registry
    entry, None for a start of this container.
    """

    request: StartAgentRequest
    given: int
    inherited: Mapping[str, Secret] | None = field(default=None, repr=False)
    changes: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def stored(cls, request: StartAgentRequest, inherited: Mapping[str, Secret]) -> Desired:
        """Of a registry entry: older than everything that reaches this container."""
        return cls(request, IN_REGISTRY, inherited)

    def generation_of(self, name: str) -> int:
        """When a field of the request was given last."""
        return self.changes.get(name, self.given)

    def change(self, generation: int, fields: Mapping[str, Any]) -> Desired:
        """With `fields` of the request as given in `generation`; a field that was given later stays as it is."""
        newer = {name: value for name, value in fields.items() if generation >= self.generation_of(name)}
        changes = {**self.changes, **dict.fromkeys(newer, generation)}
        return replace(self, request=self.request.model_copy(update=newer), changes=changes)


@dataclass(frozen=True)
class Effective:
    """The credentials and variables that count for one agent at one moment.

    `dropped` are the custom variables that do not count, each with the reason.
    """

    tokens: Mapping[str, Secret]
    organization: str | None
    custom: Mapping[str, Secret]
    dropped: Mapping[str, str]

    @property
    def gateway(self) -> Secret | None:
        return self.tokens.get("KILOCODE_TOKEN")

    @property
    def github_cli(self) -> Secret | None:
        """What `gh` works with."""
        names = ("GITHUB_CLI_PAT", "GIT_TOKEN", "GITHUB_TOKEN")
        return next((self.tokens[name] for name in names if name in self.tokens), None)


def effective(desired: Desired, live: Credentials, defaults: ContainerDefaults) -> Effective:
    """What counts now: of each credential the value with the highest generation. A pure function."""
    found = {name: _token(name, desired, live, defaults) for name in TOKEN_NAMES}
    custom, dropped = _custom(desired, live)
    return Effective(
        tokens={name: token for name, token in found.items() if token is not None},
        organization=_organization(desired, live, defaults),
        custom=custom,
        dropped=dropped,
    )


def _token(name: str, desired: Desired, live: Credentials, defaults: ContainerDefaults) -> Secret | None:
    values = (
        (_BY_DEFAULT, defaults.kilocode_token if name == "KILOCODE_TOKEN" else None),
        (IN_REGISTRY_ENVIRONMENT, (desired.inherited or {}).get(name)),
        (desired.generation_of("env_vars"), desired.request.env_vars.get(name)),
        (live.generation_of(name), live.tokens().get(name)),
    )
    given = [value for value in values if value[1]]
    return max(given, key=_generation)[1] if given else None


def _organization(desired: Desired, live: Credentials, defaults: ContainerDefaults) -> str | None:
    """Absent is not null: null says that there is none, absent lets another one decide."""
    given = [(_BY_DEFAULT, defaults.organization_id)]
    if _ORGANIZATION in desired.request.model_fields_set:
        given.append((desired.generation_of(_ORGANIZATION), desired.request.organization_id))
    if _ORGANIZATION in live.town.model_fields_set:
        given.append((live.generation_of(_ORGANIZATION), live.town.organization_id))
    return max(given, key=_generation)[1]


def _generation(given: tuple[int, object]) -> int:
    return given[0]


def _custom(desired: Desired, live: Credentials) -> tuple[dict[str, Secret], dict[str, str]]:
    """Custom variables are no credentials: the town's configuration decides, whenever it came (contract 1)."""
    asked = {**(desired.inherited or {}), **desired.request.env_vars}
    kept = {name: value for name, value in asked.items() if name not in live.retired_names}
    custom: dict[str, Secret] = {}
    dropped: dict[str, str] = {}
    together = 0
    for name, value in {**kept, **live.town.env_vars}.items():
        size = size_of(name, value)
        reason = _unusable(name, value, size, together)
        if reason is not None:
            dropped[name] = reason
        elif not is_reserved(name):
            custom[name] = value
            together += size
    return custom, dropped


def _unusable(name: str, value: Secret, size: int, together: int) -> str | None:
    """Why a variable does not count; None for one that does, and for a credential, which counts as such."""
    if is_reserved(name):
        return None if name in TOKEN_NAMES else "the name is reserved"
    if not _NAME.match(name):
        return "no shell could name it"
    if "\0" in value.reveal():
        return "its value has a NUL"
    if size > MOST_BYTES:
        return f"it has {size} bytes as NAME=value, and no process starts with more than {MOST_BYTES}"
    if together + size > MOST_BYTES_TOGETHER:
        return f"all of them together would have more than {MOST_BYTES_TOGETHER} bytes"
    return None


def size_of(name: str, value: Secret) -> int:
    """The bytes of a variable as a process gets it, NAME=value."""
    return len(f"{name}={value.reveal()}".encode(errors="surrogatepass"))


def is_reserved(name: str) -> bool:
    """Whether a custom variable may not have this name."""
    return _RESERVED.match(name) is not None
