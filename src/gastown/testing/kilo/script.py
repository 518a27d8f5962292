"""How a fake kilo behaves, as a test says it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gastown.contract.tools import mayor_tools

__all__ = ["BASE_TOOLS", "MAYOR_TOOLS", "Script"]

BASE_TOOLS = ("bash", "read", "edit", "write")
MAYOR_TOOLS = mayor_tools()


@dataclass
class Script:
    """How a server behaves; it may be changed while the server lives. Durations are virtual seconds.

    A turn opens `open_seconds` after its prompt, says its first word `word_seconds` later and lasts
    `turn_seconds`; the first request about a directory takes `instance_seconds`. `status` is what the gateway
    answers, None for success: 400 to 404 fail the turn, 429 and 5xx are retried. `offline`: the gateway cannot be
    reached. The server knows the models of its configuration, unless not `knows_configured`, and `models`
    beside them. The first `loses` prompts are stored and get no turn, as when a fresh instance's first turn is
    being aborted. `hangs` are routes ("GET /experimental/tool/ids") that never answer, `broken` routes that answer
    500, `odd` holds what routes answer instead of what a kilo says.
    """

    instance_seconds: float = 0.2
    open_seconds: float = 0.1
    word_seconds: float = 0.5
    turn_seconds: float = 2.0
    status: int | None = None
    offline: bool = False
    never_opens_turn: bool = False
    loses: int = 0
    tools: tuple[str, ...] = BASE_TOOLS + MAYOR_TOOLS
    models: tuple[str, ...] = ()
    knows_configured: bool = True
    hangs: frozenset[str] = frozenset()
    broken: frozenset[str] = frozenset()
    odd: dict[str, Any] = field(default_factory=dict[str, Any])
