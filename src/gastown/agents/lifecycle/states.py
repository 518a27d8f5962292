"""The states of one attempt at an agent, the edges between them, and why it leaves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum

import trio

from gastown.contract.agents import AgentState
from gastown.contract.errors import ControlError

__all__ = ["ACTIVE", "EDGES", "IllegalTransition", "Leaving", "Lifecycle"]

EDGES: Mapping[AgentState, frozenset[AgentState]] = {
    AgentState.STARTING: frozenset({AgentState.RUNNING, AgentState.STOPPING, AgentState.FAILED}),
    AgentState.RUNNING: frozenset({AgentState.STOPPING, AgentState.STARTING}),  # starting: its server has died
    AgentState.STOPPING: frozenset({AgentState.EXITED, AgentState.FAILED}),
    AgentState.EXITED: frozenset(),
    AgentState.FAILED: frozenset(),
}
ACTIVE = frozenset({AgentState.STARTING, AgentState.RUNNING})


class IllegalTransition(Exception):
    """A bug in this program: a state change that the table does not allow."""


class Leaving(StrEnum):
    """Why an attempt was told to end. The values are its exit reason on the wire."""

    STOPPED = "stopped"
    IDLE = "idle"
    REPLACED = "replaced by a newer start"
    EVICTED = "evicted"


class Lifecycle:
    """State, failure and reason of one attempt, from its start to its end.

    `scope` cancels the attempt; `settled` is set when its start has ended, well or badly, and `ended` when nothing
    of it is left. `failure` is the one terminal error, if it failed. `leaving` is why it was told to end: None
    until then. `moved` is called after each change, with the state before and the reason given.
    """

    def __init__(self, name: str, moved: Callable[[AgentState, str | None], None]) -> None:
        self._name = name
        self._moved = moved
        self.state = AgentState.STARTING
        self.failure: ControlError | None = None
        self.exit_reason: str | None = None
        self.leaving: Leaving | None = None
        self.scope = trio.CancelScope()
        self.settled = trio.Event()
        self.ended = trio.Event()

    @property
    def is_active(self) -> bool:
        return self.state in ACTIVE

    @property
    def goes_on(self) -> bool:
        """Whether the agent lives on elsewhere: in the start that replaced this one, or in the next container."""
        return self.leaving in (Leaving.REPLACED, Leaving.EVICTED)

    def become(self, state: AgentState, reason: str | None = None) -> None:
        """The one place where the state changes. Raises `IllegalTransition`."""
        if state not in EDGES[self.state]:
            raise IllegalTransition(f"agent {self._name}: {self.state} to {state}")
        before, self.state = self.state, state
        self.exit_reason = reason if reason is not None else self.exit_reason
        if state is not AgentState.STARTING:
            self.settled.set()
        self._moved(before, reason)

    def leave(self, why: Leaving) -> None:
        """Begin to end. The first reason stands, but for a newer start: that one waits for what is left here."""
        if self.leaving is None or why is Leaving.REPLACED:
            self.leaving = why
        if self.is_active:
            self.become(AgentState.STOPPING, why)
        self.scope.cancel(reason=why)

    def finish(self) -> None:
        """The one terminal state: nothing of the attempt is left."""
        if self.failure is not None:
            self.become(AgentState.FAILED, self.failure.message)
        elif self.state is AgentState.STARTING:
            self.become(AgentState.FAILED, "the container went down")
        else:  # told to end when it ended by itself already: it has no reason yet
            self.become(AgentState.EXITED, self.leaving if self.exit_reason is None else None)
        self.ended.set()
