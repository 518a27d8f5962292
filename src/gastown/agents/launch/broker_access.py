"""What the broker is told of the town and of each agent, and how an agent gets its bearer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog
import trio

from gastown.agents.agent import Agent
from gastown.agents.launch.environment import (
    BrokerEndpoint,
    ChildDefaults,
    gateway_token,
    organization_of,
    shell_variables,
)
from gastown.agents.services import AgentServices
from gastown.broker.grants import AgentIdentity, Gateway
from gastown.contract.agents import StartAgentRequest
from gastown.contract.secret import Secret
from gastown.isolation.users import User
from gastown.worker.client import WorkerClient, WorkerError
from gastown.worker.tokens import LiveCredentials

__all__ = ["AgentAccess", "TownUpstreams", "admit", "admit_request", "revoke"]

log = structlog.get_logger()

_RENEW_SECONDS = 15.0


@dataclass(frozen=True)
class TownUpstreams:
    """The broker's upstreams: the worker of the town, and the gateway."""

    worker: WorkerClient
    credentials: LiveCredentials
    api_url: str | None
    gateway_url: str

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


class AgentAccess:
    """What one agent may have of the town, at the moment when it is asked.

    The agent's request is the newest word until the town's configuration changes after it; then the town is.
    """

    def __init__(
        self,
        request: Callable[[], StartAgentRequest],
        inherited: Mapping[str, Secret] | None,
        credentials: LiveCredentials,
        defaults: ChildDefaults,
        user: User | None = None,
    ) -> None:
        self._request = request
        self._inherited = inherited
        self._credentials = credentials
        self._defaults = defaults
        self._user = user
        self._seen = request()
        self._since = credentials.current.town

    def gateway(self) -> Gateway:
        request, live = self._request(), self._credentials.current
        inherited, town_is_newer = self._inherited_now()
        token = gateway_token(request, live, self._defaults, inherited)
        if town_is_newer and "organization_id" in live.town.model_fields_set:
            return Gateway(token, live.town.organization_id)
        return Gateway(token, organization_of(request, live, self._defaults))

    def variables(self) -> Mapping[str, Secret]:
        inherited, _ = self._inherited_now()
        live = self._credentials.current
        return shell_variables(self._request(), live, self._defaults, inherited, self._user)

    def _inherited_now(self) -> tuple[Mapping[str, Secret] | None, bool]:
        """What goes behind the town's word (None: the request goes before it), and whether the town is newer."""
        request, town = self._request(), self._credentials.current.town
        if request is not self._seen:
            self._seen, self._since = request, town
        town_is_newer = town != self._since
        return ({} if town_is_newer and self._inherited is None else self._inherited), town_is_newer


def admit(agent: Agent, services: AgentServices) -> BrokerEndpoint | None:
    """The agent's way to the broker; None when there is none."""
    access = AgentAccess(
        lambda: agent.request, agent.inherited, services.credentials, services.defaults, agent.user
    )
    return _endpoint(agent.request, access, services)


def admit_request(request: StartAgentRequest, services: AgentServices) -> BrokerEndpoint | None:
    """The same for an agent that is still to come: its start finds the same bearer."""
    user = services.users.of(request)
    access = AgentAccess(lambda: request, None, services.credentials, services.defaults, user)
    return _endpoint(request, access, services)


def revoke(agent_id: str, services: AgentServices) -> None:
    """The agent has ended: its bearer is dead from now on."""
    if services.broker is not None:
        services.broker.grants.revoke(agent_id)


def _endpoint(request: StartAgentRequest, access: AgentAccess, services: AgentServices) -> BrokerEndpoint | None:
    if services.broker is None:
        return None
    identity = AgentIdentity(request.agent_id, request.rig_id, request.town_id, request.role)
    return BrokerEndpoint(services.broker.url, services.broker.grants.admit(identity, access).bearer)
