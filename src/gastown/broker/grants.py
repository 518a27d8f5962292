"""Which agents may use the broker: one random bearer per agent, invalid when the agent ends."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import trio

from gastown.contract.events import ModelCall
from gastown.contract.secret import Secret
from gastown.logs import SecretBook

__all__ = ["Access", "AgentIdentity", "Gateway", "Grant", "Grants", "Used"]


class AgentIdentity(NamedTuple):
    """The agent that a bearer belongs to."""

    agent_id: str
    rig_id: str
    town_id: str
    role: str

    @property
    def is_mayor(self) -> bool:
        return self.role == "mayor"


@dataclass(frozen=True)
class Gateway:
    """What the LLM gateway wants to see for an agent, at this moment."""

    token: Secret | None
    organization: str | None


class Access(Protocol):
    """What an agent may have of the town, asked at the moment of use."""

    def gateway(self) -> Gateway: ...

    def variables(self) -> Mapping[str, Secret]:
        """The environment of the agent's shell, as far as it may change while its server lives."""
        ...


Used = Callable[[ModelCall], None]
"""Told of each answer of a model to an agent, once. It does not wait, and raises nothing."""


class Grant:
    """A bearer and the agent that it belongs to. `access` is that of the agent's newest attempt, and so is `used`.

    The bearer is `gtb.<name>.<secret>`: the name finds the grant, the secret proves it.
    """

    def __init__(self, identity: AgentIdentity, access: Access, used: Used) -> None:
        self.identity = identity
        self.access = access
        self.used = used
        self.name = secrets.token_hex(8)
        self.bearer = Secret(f"gtb.{self.name}.{secrets.token_urlsafe(32)}")
        self._calls: set[trio.CancelScope] = set()

    @contextmanager
    def call(self) -> Iterator[trio.CancelScope]:
        """A call that is cancelled when the grant ends."""
        with trio.CancelScope() as scope:
            self._calls.add(scope)
            try:
                yield scope
            finally:
                self._calls.discard(scope)

    def end(self) -> None:
        for scope in self._calls:
            scope.cancel(reason="the agent has ended")


class Grants:
    """The bearers that are valid now."""

    def __init__(self) -> None:
        self._by_agent: dict[str, Grant] = {}
        self._by_name: dict[str, Grant] = {}
        self.known_secrets = SecretBook()

    def admit(self, identity: AgentIdentity, access: Access, used: Used = lambda _: None) -> Grant:
        """The grant of an agent; the one that it has when the same agent is admitted again.

        So a start finds the server that was prewarmed for it. For an agent that has become another one, of
        another rig or role, the old bearer is invalid.
        """
        known = self._by_agent.get(identity.agent_id)
        if known is not None and known.identity == identity:
            known.access, known.used = access, used
            return known
        self.revoke(identity.agent_id)
        grant = Grant(identity, access, used)
        self._by_agent[identity.agent_id] = self._by_name[grant.name] = grant
        self.known_secrets.hold(grant.name, (grant.bearer,))
        return grant

    def revoke(self, agent_id: str) -> None:
        """From now on the agent's bearer is invalid, and its calls under way are cut."""
        if (grant := self._by_agent.pop(agent_id, None)) is not None:
            del self._by_name[grant.name]
            self.known_secrets.forget(grant.name)
            grant.end()

    def bearers(self) -> list[Secret]:
        """Every bearer that is valid now, for the log's redaction."""
        return [grant.bearer for grant in self._by_name.values()]

    def find(self, bearer: str) -> Grant | None:
        """The grant of a valid bearer. The comparison takes as long for a wrong secret as for the right one."""
        name = bearer.partition(".")[2].partition(".")[0]
        grant = self._by_name.get(name)
        return grant if grant is not None and grant.bearer == Secret(bearer) else None
