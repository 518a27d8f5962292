"""The one tree of errors. Each knows its HTTP status and a sentence that may leave the process."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from gastown.contract.access import Scope
from gastown.contract.identifiers import printable
from gastown.contract.wire import Wire

__all__ = [
    "AgentNotFound",
    "AgentNotRunning",
    "BearerNeeded",
    "ChangesNotRead",
    "ControlError",
    "Draining",
    "ErrorBody",
    "InstructionsNotWritten",
    "InvalidRequest",
    "Issue",
    "PtyNotFound",
    "RigNotFound",
    "ScopeTooSmall",
    "StartDeadlineExceeded",
    "StartFailed",
    "StartReplaced",
    "StreamsClosed",
    "TicketRefused",
    "TicketRequired",
    "WorkerNotConfigured",
    "WorkerUnavailable",
]


class Issue(Wire):
    """One fault of a request body, and its place."""

    path: tuple[str | int, ...]
    message: str


class ErrorBody(Wire):
    """The shape of every error answer. One that says more than this is a bug, and raises where it is made."""

    model_config = Wire.model_config | {"alias_generator": None, "extra": "forbid"}

    error: str
    issues: tuple[Issue, ...] | None = None
    phase: str | None = None
    status: int | str | None = None
    error_type: str | None = None
    action: str | None = None
    scope: str | None = None
    attempt_id: str | None = Field(default=None, alias="attemptId")


class ControlError(Exception):
    """An error with a public sentence. `body` is its answer; `extra` are further keys of that."""

    status = 500

    def __init__(self, message: str, **extra: Any) -> None:
        super().__init__(message)
        self.message = message
        self.body = ErrorBody(error=message, **extra)

    def again(self) -> ControlError:
        """An error with the same answer, and without the traceback and the causes of this one."""
        same = ControlError(self.message)
        same.status, same.body = self.status, self.body
        return same


class InvalidRequest(ControlError):
    """400: the body, a header or a parameter is not what the contract says."""

    status = 400

    def __init__(self, issues: list[Issue]) -> None:
        super().__init__("Invalid request body", issues=tuple(issues))


class InstructionsNotWritten(ControlError):
    """507: the agent's AGENTS.md could not be written. The prompt is remembered, and written with the next one."""

    status = 507

    def __init__(self, agent_id: str, reason: str) -> None:
        super().__init__(
            f"Agent {agent_id}: {reason}",
            action="Make room on the disk, and send the prompt again: until then the agent reads the one before",
        )


class AgentNotFound(ControlError):
    """404: no agent of that id is known to this container."""

    status = 404

    def __init__(self, agent_id: str) -> None:
        super().__init__(f"Agent {printable(agent_id)} not found")


class AgentNotRunning(ControlError):
    """409: the agent exists, but the request needs a running one."""

    status = 409

    def __init__(self, agent_id: str, state: str) -> None:
        super().__init__(f"Agent {agent_id} is {state}, not running", status=state)


class RigNotFound(ControlError):
    """404: the container has not heard of that rig."""

    status = 404

    def __init__(self, rig_id: str) -> None:
        super().__init__(f"Rig {printable(rig_id)} not found", action="POST /repos/setup makes it known")


class ChangesNotRead(ControlError):
    """What a branch changes cannot be told: 404 without such a branch, 502 where git cannot read it."""

    status = 502

    def __init__(self, reason: str, status: int) -> None:
        super().__init__(reason)
        self.status = status


class MergeNotFound(ControlError):
    """404: no merge of that entry is known; one that ended is forgotten after a day."""

    status = 404

    def __init__(self, entry_id: str) -> None:
        super().__init__(f"Merge {printable(entry_id)} not found")


class Draining(ControlError):
    """503: this container is draining; the orchestrator starts the agent in the next one."""

    status = 503

    def __init__(self) -> None:
        super().__init__("Container is draining, cannot start new agents")


class WorkerNotConfigured(ControlError):
    """503: the route needs the worker API, and this container was given none."""

    status = 503

    def __init__(self) -> None:
        super().__init__("Missing gastown configuration")


class WorkerUnavailable(ControlError):
    """502: the worker API gave no answer that could be passed on."""

    status = 502

    def __init__(self) -> None:
        super().__init__("The worker API does not answer")


class StartFailed(ControlError):
    """500: a start ended in a failure of its own.

    `phase` names what was running; `status` and `error_type` are the gateway's where it was the gateway;
    `action` tells the caller what to do. `retryable` and `detail` are for logs and the registry of attempts.
    """

    status = 500

    def __init__(
        self,
        message: str,
        *,
        phase: str,
        status: int | None = None,
        error_type: str | None = None,
        action: str | None = None,
        retryable: bool = True,
    ) -> None:
        super().__init__(message, phase=phase, status=status, error_type=error_type, action=action)
        self.phase = phase
        self.retryable = retryable


class StartDeadlineExceeded(ControlError):
    """504: the start ran into the caller's deadline; `phase` is what was running then.

    `ended` is whether the agent was ended with it: one that has a later deadline, or none, goes on.
    """

    status = 504

    def __init__(self, agent_id: str, phase: str, seconds: float, *, ended: bool = True) -> None:
        outcome = f"it was in phase {phase} and has been ended" if ended else f"it is in phase {phase} and goes on"
        super().__init__(f"Agent {agent_id} was not ready after {seconds:g} s; {outcome}", phase=phase)
        self.phase = phase


class StartReplaced(ControlError):
    """409: a newer start of the same agent took this one's place; `attemptId` names the attempt that did."""

    status = 409

    def __init__(self, agent_id: str, attempt: str) -> None:
        super().__init__(
            f"Agent {agent_id}: a newer start replaced this one",
            action="Nothing is lost: ask for the agent's status, which is that of the newer attempt",
            attempt_id=attempt,
        )


class BearerNeeded(ControlError):
    """401: no token was shown, or an unknown one. An unauthenticated caller is not told which."""

    status = 401

    def __init__(self) -> None:
        super().__init__("A token of this container is needed: Authorization: Bearer <token>")


class ScopeTooSmall(ControlError):
    """403: the token is valid, but its scope is too small."""

    status = 403

    def __init__(self, needed: Scope, held: Scope) -> None:
        super().__init__(
            f"This needs a token with the scope {needed.word}; this one has {held.word}", scope=needed.word
        )


class TicketRequired(ControlError):
    """401: a websocket of this container needs a stream ticket."""

    status = 401

    def __init__(self) -> None:
        super().__init__("A stream ticket is required: ask for one at /agents/:id/stream-ticket, or send a bearer")


class TicketRefused(ControlError):
    """403: the stream ticket that was shown does not open this websocket."""

    status = 403


class StreamsClosed(ControlError):
    """503: the container stops, and its websockets are closed."""

    status = 503


class PtyNotFound(ControlError):
    """404: the agent's server has no such terminal (any more)."""

    status = 404

    def __init__(self, pty_id: str) -> None:
        super().__init__(f"Terminal {printable(pty_id)} not found")
