"""What model calls came to: one of them, and many together."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Source", "Spending", "Use"]


class Source(StrEnum):
    """Whose figures they are. The gateway's cannot be forged by an agent; kilo's count where there are none."""

    GATEWAY = "gateway"
    KILO = "kilo"


@dataclass(frozen=True, kw_only=True)
class Use:
    """One model call of an agent. The same `call_id` of an agent is the same call. `cost`: None is not known."""

    agent_id: str
    attempt_id: str | None
    call_id: str
    source: Source
    input: int = 0
    output: int = 0
    cached: int = 0
    reasoning: int = 0
    cost: float | None = None


@dataclass(frozen=True, kw_only=True)
class Spending:
    """Model calls together. `cost` is the sum of what is known, in USD, None when nothing is; `unpriced` are the
    calls of which it is not. `source` is whose figures they are, KILO where a part of them is kilo's.
    """

    calls: int = 0
    unpriced: int = 0
    input: int = 0
    output: int = 0
    cached: int = 0
    reasoning: int = 0
    cost: float | None = None
    source: Source | None = None
