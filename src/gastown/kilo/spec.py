"""What a kilo server is started with, as one value."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType

from gastown.contract.secret import Secret, credentials_among
from gastown.isolation.users import User
from gastown.logs import Redactor

__all__ = ["ServerSpec"]


@dataclass(frozen=True)
class ServerSpec:
    """Everything that decides what a server is: two servers of equal specs are interchangeable.

    `env` is the whole environment of the child and holds credentials, so it is left out of the repr.
    `required_tools` must be registered before the server counts as ready. `user` is the user of its process.
    """

    argv: tuple[str, ...]
    cwd: str
    home: str
    env: Mapping[str, str] = field(repr=False)
    required_tools: frozenset[str] = frozenset()
    user: User | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "env", MappingProxyType(dict(self.env)))

    @property
    def key(self) -> tuple[str, str]:
        """What a server occupies: a working directory and a home. One server may run per key.

        The home is in it because the agents of a rig that only reason share a working directory, and each
        has its own identity and conversation.
        """
        return (self.cwd, self.home)

    @cached_property
    def fingerprint(self) -> str:
        """A hash over all of it. A server is reused only for an equal fingerprint."""
        canonical = json.dumps(
            [
                self.argv,
                self.cwd,
                self.home,
                sorted(self.env.items()),
                sorted(self.required_tools),
                repr(self.user),
            ]
        )
        return hashlib.sha256(canonical.encode()).hexdigest()

    def redacted(self, lines: Iterable[str]) -> tuple[str, ...]:
        """What a server of this spec has said, without the credentials of its environment."""
        redactor = Redactor(credentials_among({name: Secret(value) for name, value in self.env.items()}))
        return tuple(map(redactor, lines))

    def differences(self, other: ServerSpec) -> tuple[str, ...]:
        """The names of what differs, never the values."""
        names = {f"env.{name}" for name in {*self.env, *other.env} if self.env.get(name) != other.env.get(name)}
        for name in ("argv", "cwd", "home", "required_tools", "user"):
            if getattr(self, name) != getattr(other, name):
                names.add(name)
        return tuple(sorted(names))
