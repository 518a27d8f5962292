"""What the broker asks about the town and about each agent, and how an agent gets its bearer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog
import trio

from gastown.agents.launch.desired import Desired, effective
from gastown.agents.launch.environment import BrokerEndpoint, ChildDefaults, shell_variables
from gastown.agents.services import AgentServices
from gastown.broker.grants import AgentIdentity, Gateway, Used
from gastown.contract.secret import Secret
from gastown.isolation.users import User
from gastown.worker.client import WorkerClient, WorkerError
from gastown.worker.tokens import LiveCredentials

__all__ = ["AgentAccess", "TownUpstreams", "admit", "revoke"]

log = structlog.get_logger()

_RENEW_SECONDS = 15.0


@dataclass(frozen=True)
class TownUpstreams:
    """The broker's upstreams: the worker of the town, and the gateway."""

    worker: WorkerClient
    credentials: LiveCredentials
    api_url: str | None
    gateway_url: str
    own_gateway_url: str | None = None

    @property
    def worker_url(self) -> str | None:
        url = self.credentials.current.town.gastown_api_url or self.api_url
        return url.rstrip("/") if url else None

    @property
    def worker_token(self) -> Secret | None:
        return self.credentials.current.container_token

    async def renew_worker_token(self, refused: Secret | None) -> bool:
        try:
            with trio.fail_after(_RENEW_SECONDS):
                await self.worker.renew_token(refused)
        except (WorkerError, trio.TooSlowError) as error:
            log.warning("token.refresh_failed", reason=str(error) or f"no answer in {_RENEW_SECONDS:g} s")
            return False
        return True


@dataclass(frozen=True)
class AgentAccess:
    """What one agent may have of the town, at the moment when it is asked. Asking changes nothing."""

    desired: Callable[[], Desired]
    credentials: LiveCredentials
    defaults: ChildDefaults
    user: User | None = None

    def gateway(self) -> Gateway:
        counts = effective(self.desired(), self.credentials.current, self.defaults.counts)
        return Gateway(counts.gateway, counts.organization)

    def variables(self) -> Mapping[str, Secret]:
        return shell_variables(self.desired(), self.credentials.current, self.defaults, self.user)


def admit(
    desired: Callable[[], Desired], user: User | None, services: AgentServices, used: Used
) -> BrokerEndpoint:
    """An agent's way to the broker, also before its start: the start then finds the same bearer."""
    request = desired().request
    identity = AgentIdentity(request.agent_id, request.rig_id, request.town_id, request.role)
    access = AgentAccess(desired, services.credentials, services.defaults, user)
    return BrokerEndpoint(services.broker.url, services.broker.grants.admit(identity, access, used).bearer)


def revoke(agent_id: str, services: AgentServices) -> None:
    """The agent has ended: its bearer is dead from now on."""
    services.broker.grants.revoke(agent_id)
