"""When an agent's conversation is to be saved, and what became of it."""

from __future__ import annotations

from datetime import datetime

import trio

from gastown.contract.agents import SnapshotState, SnapshotStatus

__all__ = ["Saving"]


class Saving:
    """Wishes that come while a save runs become one. `status` is for whoever asks how safe the conversation is."""

    def __init__(self) -> None:
        self.status: SnapshotStatus | None = None
        self._wanted = trio.Event()

    def want(self) -> None:
        """Save soon; returns at once."""
        self._wanted.set()

    async def wanted(self) -> None:
        """Return when somebody wants a save, and forget the wish: what is saved from now on has what it meant."""
        await self._wanted.wait()
        self._wanted = trio.Event()

    def saved(self, at: datetime) -> None:
        self.status = SnapshotStatus(state=SnapshotState.SAVED, saved_at=at)

    def is_(self, state: SnapshotState, reason: str) -> None:
        last = self.status.saved_at if self.status is not None else None
        self.status = SnapshotStatus(state=state, saved_at=last, reason=reason)
