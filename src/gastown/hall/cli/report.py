"""The report of a boot as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gastown.contract.town import Health
from gastown.hall.cli.boot import Boot
from gastown.hall.cli.mayor import Told
from gastown.hall.cli.turn import Turn
from gastown.hall.cli.waterfall import Bar

__all__ = ["report_of"]


def report_of(
    boot: Boot, bars: Sequence[Bar], health: Health, turn: Turn | None, told: Told | None
) -> dict[str, Any]:
    """The bars and figures as JSON; times are milliseconds, since `up` began where they name a moment.

    `turn` and `told` are None where the mayor was told nothing.
    """
    seen = boot.seen
    moments = {
        "hall": seen.hall_ms,
        "spawned": seen.spawned_ms,
        "healthy": seen.healthy_ms,
        "gateOpen": seen.gate_ms,
        "mayorReady": boot.wall_ms(health.mayor_ready_at),
        "startRequested": seen.requested_ms,
        "started": seen.started_ms,
        "prompted": seen.prompted_ms,
        "firstWord": seen.first_word_ms,
        "answered": seen.answered_ms,
    }
    return {
        "town": boot.hall.town_id,
        "hallUrl": boot.hall.url,
        "controlUrl": boot.control_url,
        "standIn": boot.hall.stand_in,
        "sessionId": told and told.session_id,
        "toldBy": told and told.by,
        "turn": turn and {"reason": turn.reason, "error": turn.error, "text": turn.text},
        "momentsMs": {name: _rounded(value) for name, value in moments.items()},
        "bars": [
            {
                "name": bar.name.strip(),
                "startMs": _rounded(bar.start_ms),
                "endMs": _rounded(bar.end_ms),
                "note": bar.note,
            }
            for bar in bars
        ],
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
