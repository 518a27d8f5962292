"""The prompts that others have left for an agent at the worker: what waits, and what was given already."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import structlog
import trio

from gastown.contract.errors import WorkerUnavailable
from gastown.contract.worker import Nudge
from gastown.worker.client import WorkerClient, WorkerError
from gastown.worker.reports import Reports

__all__ = ["NudgeDesk"]

log = structlog.get_logger()

_ASK_SECONDS = 10.0
_REMEMBERED = 2000


class NudgeDesk:
    """Asks for nudges, and remembers the delivered ones: for a worker that was away those are still pending."""

    def __init__(self, worker: WorkerClient, reports: Reports) -> None:
        self._worker = worker
        self._reports = reports
        self._delivered: OrderedDict[tuple[str, str], None] = OrderedDict()

    async def pending(self, rig_id: str, agent_id: str) -> list[Nudge]:
        """What waits for the agent, the most urgent first; nothing when the worker does not say so in time."""
        try:
            with trio.fail_after(_ASK_SECONDS):
                waiting = await self._worker.pending_nudges(rig_id, agent_id)
        except (WorkerError, trio.TooSlowError) as error:
            log.warning("nudges.unknown", agent_id=agent_id, reason=str(error) or "no answer in time")
            return []
        return [nudge for nudge in waiting if (agent_id, nudge.nudge_id) not in self._delivered]

    def delivered(self, agent_id: str, nudge_id: str) -> None:
        """Never offer this nudge again."""
        self._delivered[agent_id, nudge_id] = None
        if len(self._delivered) > _REMEMBERED:
            self._delivered.popitem(last=False)

    def not_delivered(self, agent_id: str, nudge_id: str) -> None:
        """It did not reach the agent after all."""
        self._delivered.pop((agent_id, nudge_id), None)

    async def forward(self, method: str, route: str, body: Any, agent: tuple[str, str]) -> tuple[int, Any]:
        """Ask the worker for somebody else; its status and its JSON.

        Raises `WorkerNotConfigured`, and `WorkerUnavailable` where there is no answer that could be passed on.
        """
        try:
            with trio.fail_after(_ASK_SECONDS):
                return await self._worker.forward(method, route, body, agent)
        except (WorkerError, trio.TooSlowError) as error:
            log.warning("nudges.not_forwarded", agent_id=agent[1], reason=str(error) or "no answer in time")
            raise WorkerUnavailable from None

    def report(self, rig_id: str, agent_id: str, nudge_id: str) -> None:
        """Tell the worker that the agent has it."""
        self._reports.nudge_delivered(rig_id, agent_id, nudge_id)
