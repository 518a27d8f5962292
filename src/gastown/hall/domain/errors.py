"""Why the board refuses something, each with one sentence that a caller may see. They know no request."""

from __future__ import annotations

__all__ = ["BoardError", "Conflict", "IllegalEdge", "Invalid", "NotFound"]


class BoardError(Exception):
    """The board refuses what was asked; nothing was changed. `action`, if there is one, is what to do instead."""

    def __init__(self, sentence: str, action: str | None = None) -> None:
        super().__init__(sentence)
        self.action = action


class NotFound(BoardError):
    """There is no such bead, convoy, agent or rig."""


class Invalid(BoardError):
    """What was asked contradicts itself, for example a bead that waits for itself."""


class Conflict(BoardError):
    """What was asked does not fit the present state of the board."""


class IllegalEdge(Conflict):
    """A bead cannot go from its state to the one that was asked for."""
