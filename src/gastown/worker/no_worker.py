"""The worker of a container that was given none."""

# ruff: noqa: ARG002 - the parameters are those of the calls that it stands in for

from __future__ import annotations

from typing import Any

from gastown.contract.errors import WorkerNotConfigured
from gastown.contract.secret import Secret
from gastown.contract.worker import Heartbeat, MayorContext, Nudge, RegistryEntry
from gastown.worker.calls import worker_calls
from gastown.worker.client import Registry, WorkerClient, WorkerError

__all__ = ["NoWorker"]


class NoWorker(WorkerClient):
    """Stores nothing, takes whatever it is told, and sends no request.

    What can only be asked of a worker is an error: `WorkerNotConfigured` to a caller of the control API.
    Where it matters whether something was really stored, the service asks `is_configured` first.
    """

    is_configured = False

    def __init__(self) -> None:
        self.refused = None
        self.town_id = ""
        self.calls = worker_calls()

    async def registry(self) -> Registry:
        return Registry((), 0)

    async def write_registry(self, entries: list[RegistryEntry]) -> None: ...

    async def mayor_context(self) -> MayorContext:
        raise _missing("GET /mayor-id")

    async def container_event(self, event: dict[str, Any]) -> None: ...

    async def snapshot(self, rig_id: str, agent_id: str, *, most_bytes: int) -> bytes | None:
        return None

    async def save_snapshot(self, rig_id: str, agent_id: str, content: bytes) -> None: ...

    async def delete_snapshot(self, rig_id: str, agent_id: str) -> None: ...

    async def agent_events(self, rig_id: str, agent_id: str, content: bytes, *, batch: bool) -> bool:
        return True

    async def report(self, report: str, body: dict[str, Any], agent: tuple[str, str] | None) -> None: ...

    async def call_back(self, url: str, body: dict[str, Any]) -> None: ...

    async def forward(self, method: str, route: str, body: Any, agent: tuple[str, str]) -> tuple[int, Any]:
        raise WorkerNotConfigured

    async def heartbeat(self, beat: Heartbeat) -> str | None:
        return None

    async def pending_nudges(self, rig_id: str, agent_id: str) -> tuple[Nudge, ...]:
        return ()

    async def git_token(self, rig_id: str) -> Secret | None:
        return None

    async def refresh_token(self) -> None:
        raise _missing("POST /refresh-container-token")

    async def renew_token(self, refused: Secret | None, call: str = "a call of an agent") -> None:
        raise _missing(call)


def _missing(call: str) -> WorkerError:
    return WorkerError(call, "no worker is configured", transient=False)
