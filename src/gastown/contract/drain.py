"""The drain of a container on the control API, and what the worker is told of it."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from gastown.contract.agents import Rescued, Unsaved
from gastown.contract.wire import Timestamp, Wire

__all__ = [
    "DrainPhase",
    "DrainReceipt",
    "DrainRequest",
    "DrainState",
    "EvictionContext",
    "FarewellStep",
    "TurnEnd",
]


class DrainPhase(StrEnum):
    """`working`: turns may still end by themselves. `saving`: what is left ends and is saved. `flushing`: the
    registry, reports and events are sent.
    """

    NONE = "none"
    WORKING = "working"
    SAVING = "saving"
    FLUSHING = "flushing"
    DONE = "done"


class FarewellStep(StrEnum):
    """Where one agent is in the drain."""

    WORKING = "working"
    ENDING = "ending"
    SAVING = "saving"
    DONE = "done"


class TurnEnd(StrEnum):
    """What an agent was doing when its drain began. `gone`: it had ended by itself before."""

    STARTING = "starting"
    IDLE = "idle"
    FINISHED = "finished"
    INTERRUPTED = "interrupted"
    GONE = "gone"


class DrainRequest(Wire):
    """`POST /drain`. Without a budget it is that of the settings; while a drain is on it can only shrink."""

    budget_seconds: float | None = Field(default=None, gt=0, le=86_400, allow_inf_nan=False)


class DrainReceipt(Wire):
    """What the drain did for one agent. Null: there was nothing to do, or it is not done yet.

    `saved`: its conversation is at the worker. `commit`: what was not committed is in it. `pushed`: its commits
    are on the remote's `branch`. `reported`: the eviction context is written. `rescued` is what went to other
    branches of the remote, `unsaved` what is on none. `lost` says what is not saved, and why, as sentences.
    """

    agent_id: str
    role: str
    step: FarewellStep
    turn: TurnEnd | None
    branch: str | None
    commit: str | None
    saved: bool | None
    pushed: bool | None
    reported: bool | None
    rescued: tuple[Rescued, ...] = ()
    unsaved: tuple[Unsaved, ...] = ()
    lost: tuple[str, ...]


class DrainState(Wire):
    """`GET /drain`. `notice` is what became of the eviction notice; `flushed` says what has all gone out."""

    draining: bool
    phase: DrainPhase
    why: str | None
    budget_seconds: float | None
    seconds_left: float | None
    notice: str | None
    agents: tuple[DrainReceipt, ...]
    flushed: dict[str, bool]


class EvictionContext(Wire):
    """To the worker: a polecat's unfinished work is on `branch`, for the agent that continues it. It is a rescue
    branch where the remote refused the agent's own.
    """

    model_config = Wire.model_config | {"alias_generator": None}

    branch: str
    agent_name: str
    saved_at: Timestamp
