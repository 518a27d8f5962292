"""What each start was answered, so that a request that comes again gets the same answer."""

from __future__ import annotations

from collections import OrderedDict

import trio

from gastown.agents.agent import Agent
from gastown.agents.lifecycle.states import Leaving
from gastown.contract.agents import AgentState, PublicAgent, StartAgentRequest
from gastown.contract.errors import ControlError, Draining, StartFailed, StartReplaced
from gastown.contract.git import Remote
from gastown.contract.secret import Secret, is_credential

__all__ = ["KEPT_SECONDS", "MOST_KEPT", "Attempts", "StartAnswer", "joins", "same_start"]

KEPT_SECONDS = 600.0
"""How long an answer is kept, from the end of the start."""
MOST_KEPT = 1000
"""Answers kept at most, over all agents; the oldest go first."""

StartAnswer = PublicAgent | ControlError


class Attempts:
    """The answers of starts that have ended, by agent and attempt.

    The first answer of an attempt is the only one: a later caller gets it as it was then, whatever has become of
    the agent since. Errors are kept without their tracebacks, which would hold the whole attempt in memory.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str], tuple[float, StartAnswer]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def recall(self, agent_id: str, attempt: str) -> StartAnswer | None:
        """The answer of that attempt; None when it has none yet, or none any more."""
        self._forget_old()
        kept = self._kept.get((agent_id, attempt))
        return kept[1] if kept is not None else None

    def keep(self, agent_id: str, attempt: str, answer: StartAnswer) -> StartAnswer:
        """Keep the answer of an attempt, unless it has one; returns the one that counts."""
        before = self.recall(agent_id, attempt)
        if before is not None:
            return before
        kept = answer.again() if isinstance(answer, ControlError) else answer
        self._kept[agent_id, attempt] = (trio.current_time(), kept)
        self._forget_old()
        return answer

    def answer_of(self, agent: Agent) -> StartAnswer:
        """What every caller of this attempt is answered. Its start must have ended (`agent.settled`)."""
        return self.keep(agent.id, agent.attempt, _answer(agent))

    async def record(self, agent: Agent) -> None:
        """Keep the answer of an attempt once there is one, also when no caller is left to hear it."""
        await agent.settled.wait()
        self.answer_of(agent)

    def _forget_old(self) -> None:
        oldest = trio.current_time() - KEPT_SECONDS
        while self._kept:
            key, (since, _) = next(iter(self._kept.items()))
            if since > oldest and len(self._kept) <= MOST_KEPT:
                return
            del self._kept[key]


def joins(agent: Agent, request: StartAgentRequest, attempt: str | None) -> bool:
    """Whether a start is the same as the attempt `agent`, and gets its answer instead of replacing it.

    With an id of its own it is, when that is the attempt's id. Without one it is, when it asks for the same and
    the attempt is still starting for another caller; an agent of the registry has no caller.
    """
    if attempt is not None:
        return agent.is_active and agent.attempt == attempt
    answered = agent.settled.is_set() or agent.scope.cancel_called  # the latter: 504, and its processes still end
    in_flight = not (answered or agent.is_resumed)
    return in_flight and same_start(agent.asked, request)


def same_start(one: StartAgentRequest, other: StartAgentRequest) -> bool:
    """Whether two requests ask for the same but for their credentials.

    Credentials are what the log counts as such among `envVars` (a name such as GIT_TOKEN, or a value that looks
    random), and what stands before the host of an address. The names of the variables do count.
    """
    return _without_credentials(one) == _without_credentials(other)


def _without_credentials(request: StartAgentRequest) -> StartAgentRequest:
    hidden = Secret("")
    variables = {
        name: hidden if is_credential(name, secret) else secret for name, secret in request.env_vars.items()
    }
    rigs = tuple(rig.model_copy(update={"git_url": _bare(rig.git_url)}) for rig in request.rigs)
    bare = {"env_vars": variables, "git_url": _bare(request.git_url), "rigs": rigs}
    return request.model_copy(update=bare)


def _bare(address: str) -> str:
    """An address without its credentials; one that cannot be read (a mayor's may be empty) stays."""
    try:
        return Remote.parse(address).url
    except ValueError:
        return address


def _answer(agent: Agent) -> StartAnswer:
    if agent.failure is not None:
        return agent.failure
    if agent.state is AgentState.RUNNING:
        return agent.public()
    if agent.replaced_by is not None:
        return StartReplaced(agent.id, agent.replaced_by)
    if agent.lifecycle.leaving is Leaving.EVICTED:
        return Draining()
    return StartFailed(
        f"Agent {agent.id} was ended during its start: {agent.exit_reason}", phase=agent.phases.current
    )
