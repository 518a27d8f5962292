"""Why the board refuses something, each with one sentence that a caller may see. They know no request."""

from __future__ import annotations

__all__ = ["BoardError", "Conflict", "IllegalEdge", "Invalid", "NotFound"]


class BoardError(Exception):
    """The board refuses what was asked; nothing was changed."""


class NotFound(BoardError):
    """There is no such bead, convoy, agent or rig."""


class Invalid(BoardError):
    """What was asked contradicts itself, for example a bead that waits for itself."""


class Conflict(BoardError):
    """What was asked does not fit the present state of the board."""


class IllegalEdge(Conflict):
    """A bead cannot go from its state to the one that was asked for."""
