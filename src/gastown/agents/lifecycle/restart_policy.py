"""Whether an agent whose server is gone comes back by itself, and after how long."""

from __future__ import annotations

from collections import deque

import trio

from gastown.agents.agent import Agent
from gastown.concurrency.backoff import delays
from gastown.concurrency.supervise import leaves
from gastown.contract.agents import AgentState
from gastown.contract.errors import StartDeadlineExceeded, StartFailed
from gastown.kilo.errors import KiloError, ServerDied

__all__ = ["RestartPolicy", "ServerWedged", "should_restart"]

TRIES = 5
WINDOW_SECONDS = 15 * 60.0
_FIRST_DELAY, _MOST_DELAY = 1.0, 30.0


class ServerWedged(KiloError):
    """The server runs and does not answer. It is ended, and the agent goes on with another one."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"kilo serve has not answered its probes for {seconds:.0f} s")


class RestartPolicy:
    """At most five tries in fifteen minutes, with growing pauses: a server that dies each time is given up."""

    def __init__(self) -> None:
        self._tries: deque[float] = deque()
        self._delays = delays(_FIRST_DELAY, _MOST_DELAY)

    def next(self) -> float | None:
        """Seconds to wait before the next try, None when there was one too many already."""
        now = trio.current_time()
        while self._tries and self._tries[0] <= now - WINDOW_SECONDS:
            self._tries.popleft()
        if not self._tries:
            self._delays = delays(_FIRST_DELAY, _MOST_DELAY)
        if len(self._tries) >= TRIES:
            return None
        self._tries.append(now)
        return next(self._delays)


def should_restart(agent: Agent, error: BaseException) -> bool:
    """Whether the end of a life is one that it survives on another server.

    A dead server ends every agent but the mayor, with one typed result. A wedged one is replaced for all. Once
    an agent is coming back, a failure of its new server costs a try and no more.
    """
    causes = leaves(error)
    if not all(isinstance(cause, Exception) for cause in causes):
        return False
    if agent.state is AgentState.RUNNING:
        survives = (ServerDied, ServerWedged) if agent.request.is_mayor else (ServerWedged,)
        return any(isinstance(cause, survives) for cause in causes)
    if agent.state is AgentState.STARTING and agent.returning:
        return all(isinstance(cause, (KiloError, StartFailed, StartDeadlineExceeded)) for cause in causes)
    return False
