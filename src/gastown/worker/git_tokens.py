"""Where git tokens come from: the worker renews a rig's, the platform has those of its integrations."""

from __future__ import annotations

import json
from dataclasses import dataclass

import httpx2
import pydantic
import structlog
import trio

from gastown.contract.secret import Secret
from gastown.contract.town import GitAuth
from gastown.worker.answers import Unreadable, send
from gastown.worker.client import WorkerClient, WorkerError
from gastown.worker.tokens import LiveCredentials

__all__ = ["GitTokens"]

log = structlog.get_logger()

_SECONDS = 10.0


class _Refused(ValueError):
    """The platform answered with another status than success."""


@dataclass(frozen=True)
class GitTokens:
    """`kilocode_token` is what the platform is shown where the town has none of its own.

    Each call has ten seconds, and returns None where there is no service to ask or no usable answer; the log says
    why. Git then goes on with what it has.
    """

    worker: WorkerClient
    client: httpx2.AsyncClient
    live: LiveCredentials
    cloud_url: str | None
    kilocode_token: Secret | None

    async def renewed(self, rig_id: str) -> Secret | None:
        """A new token for a rig, from the worker."""
        try:
            with trio.fail_after(_SECONDS):
                return await self.worker.git_token(rig_id)
        except (WorkerError, trio.TooSlowError) as error:
            log.warning("git.token_not_renewed", rig_id=rig_id, reason=str(error) or "no answer in 10 s")
            return None

    async def integration(self, integration_id: str) -> GitAuth | None:
        """The credentials of a platform integration."""
        token = self.live.current.town.kilocode_token or self.kilocode_token
        if self.cloud_url is None or not token:
            return None
        try:
            with trio.fail_after(_SECONDS):
                return await self._ask(self.cloud_url, token, integration_id)
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError, trio.TooSlowError) as error:
            log.warning("git.integration_failed", reason=_reason(error))
            return None

    async def _ask(self, cloud_url: str, token: Secret, integration_id: str) -> GitAuth:
        answer = await send(
            self.client,
            "POST",
            f"{cloud_url.rstrip('/')}/api/gastown/git-credentials",
            content=json.dumps({"platform_integration_id": integration_id}).encode("ascii"),
            headers={"Authorization": f"Bearer {token.reveal()}", "Content-Type": "application/json"},
        )
        if not 200 <= answer.status < 300:
            raise _Refused(f"answered {answer.status}")
        if not answer.content():
            raise Unreadable("the answer is empty")
        return GitAuth.model_validate(answer.json())


def _reason(error: Exception) -> str:
    """What went wrong, without an address or an answer in it."""
    if isinstance(error, _Refused):
        return str(error)
    if isinstance(error, pydantic.ValidationError | Unreadable):
        return "unusable answer"
    return "no answer in 10 s" if isinstance(error, trio.TooSlowError) else type(error).__name__
