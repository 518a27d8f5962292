"""What an agent's model calls came to: tokens and cost, counted once a message."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from gastown.contract.events import ModelCall, ModelCalls, Usage, UsageEvent

__all__ = ["UsageMeter"]

_SESSIONS = 256
"""Sessions whose last counted message is remembered: the agent's own, and those of its sub-agents."""
_LONGEST_MODEL = 500
_FEW_TOKENS = 5000
_SHARE = 0.25
"""Of the larger of two sums: by more they may not be apart."""
_MOST = 2**53
"""Of tokens or USD in one message. An agent can make its server say any number."""


class UsageMeter:
    """Adds up the assistant's messages of one attempt. `total` is None until one has completed.

    `calls` are the model calls of the attempt as the gateway counts them, None until there was one; `differs` is
    set once kilo's figures and the gateway's are far apart.

    Every session of the agent's server counts: a sub-agent's tokens are the agent's. A message that comes a second
    time, as one does after a broken stream, is counted once: ids of messages sort by age (kilo-facts 2).
    """

    def __init__(self) -> None:
        self.total: Usage | None = None
        self.calls: ModelCalls | None = None
        self.differs = False
        self._is_whole = True
        self._counted: OrderedDict[str, str] = OrderedDict()

    def take(self, session_id: str, info: Any) -> UsageEvent | None:
        """Take the `info` of a `message.updated`; returns what to tell, when it completes a message.

        Numbers that are missing count as 0, and shapes that are not kilo's as no message.
        """
        if not _is_completed(info) or info["id"] <= self._counted.get(session_id, ""):
            return None
        self.passed(session_id, info["id"])
        used = _used(info)
        self.total = used if self.total is None else _sum(self.total, used)
        model = info.get("modelID")
        return UsageEvent(
            session_id=session_id,
            message_id=info["id"],
            model=model if isinstance(model, str) and len(model) <= _LONGEST_MODEL else None,
            **dict(used),
        )

    def take_call(self, call: ModelCall) -> None:
        """An answer of a model has come through the broker."""
        self.calls = (self.calls or ModelCalls()).plus(call)
        self._is_whole = self._is_whole and call.outcome == "counted"

    def compare(self) -> bool:
        """Whether it is found out now that both figures are far apart. Asked between turns, when both are whole.

        kilo does not count the titles that it has a model make, so some thousand tokens are no difference. Where
        an answer did not say its usage, there is nothing to compare.
        """
        if self.differs or not self._is_whole or self.total is None:
            return False
        kilo = self.total.input + self.total.output
        gateway = 0 if self.calls is None else self.calls.input + self.calls.output
        self.differs = abs(kilo - gateway) > max(_FEW_TOKENS, _SHARE * max(kilo, gateway))
        return self.differs

    def passed(self, session_id: str, message_id: str) -> None:
        """Messages up to this one count no more: they have been counted, or an earlier attempt has made them."""
        self._counted[session_id] = message_id
        self._counted.move_to_end(session_id)
        if len(self._counted) > _SESSIONS:
            self._counted.popitem(last=False)


def _is_completed(info: Any) -> bool:
    return (
        isinstance(info, dict)
        and info.get("role") == "assistant"
        and isinstance(info.get("id"), str)
        and isinstance(info.get("time"), dict)
        and info["time"].get("completed") is not None
    )


def _used(info: dict[str, Any]) -> Usage:
    tokens = _object(info.get("tokens"))
    cache = _object(tokens.get("cache"))
    # kilo keeps cached input and the reasoning apart from `input` and `output`; the model was given and gave all.
    given = sum(map(_count, (tokens.get("input"), cache.get("read"), cache.get("write"))))
    made = sum(map(_count, (tokens.get("output"), tokens.get("reasoning"))))
    cost = info.get("cost")
    # kilo says 0 for a model of which it knows no price, too.
    unpriced = not cost and bool(given or made)
    return Usage(input=given, output=made, cost=None if unpriced or not _is_amount(cost) else cost)


def _sum(one: Usage, other: Usage) -> Usage:
    """Both together. A sum with a part that is not known is not known."""
    cost = None if one.cost is None or other.cost is None else one.cost + other.cost
    return Usage(input=one.input + other.input, output=one.output + other.output, cost=cost)


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(value: Any) -> int:
    """A number of tokens."""
    return int(value) if _is_amount(value) else 0


def _is_amount(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _MOST
