"""What a start works with, computed once: a prewarm is the same plan, stopped after its server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from gastown.agents.launch.broker_access import admit
from gastown.agents.launch.desired import Desired
from gastown.agents.launch.environment import BrokerEndpoint, derive, home_of
from gastown.agents.services import AgentServices
from gastown.broker.grants import Used
from gastown.contract.agents import StartAgentRequest
from gastown.contract.town import TownConfig
from gastown.git.workspace import prepare_workspace
from gastown.isolation.users import User
from gastown.kilo.spec import ServerSpec

__all__ = ["StartPlan", "workspace"]


@dataclass(eq=False)
class StartPlan:
    """Where a start works and as which user (None: ourselves), and the server that it needs.

    `desired` gives what is wanted of the agent at the moment of the call; `used` is told of its model calls.
    """

    desired: Callable[[], Desired]
    workdir: str
    user: User | None
    services: AgentServices
    used: Used = lambda _: None
    _derived: tuple[StartAgentRequest, TownConfig, ServerSpec] | None = field(default=None, init=False)

    @property
    def request(self) -> StartAgentRequest:
        return self.desired().request

    @property
    def home(self) -> str:
        return home_of(self.services.defaults, self.request.agent_id)

    @property
    def key(self) -> tuple[str, str]:
        """What the server pool knows the server by."""
        return self.workdir, self.home

    @cached_property
    def endpoint(self) -> BrokerEndpoint:
        """The agent's way to the broker, which is open from the first use on."""
        return admit(self.desired, self.user, self.services, self.used)

    def spec(self) -> ServerSpec:
        """The server that the agent needs now. Derived again only when what it is derived from has changed."""
        request, live = self.request, self.services.credentials.current
        if self._derived is None or self._derived[:2] != (request, live.town):
            spec = derive(
                request, self.workdir, live, self.services.defaults, endpoint=self.endpoint, user=self.user
            )
            self._derived = (request, live.town, spec)
        return self._derived[2]


async def workspace(plan: StartPlan) -> None:
    """Make the working directory of an agent without a worktree. Raises `GitError`."""
    services, request = plan.services, plan.request
    owner = services.users.owner(request, plan.user)
    mode = 0o700 if request.is_mayor else 0o750
    run = services.repositories.tools.run
    await prepare_workspace(services.paths, plan.workdir, services.defaults.base_env, owner, mode, run=run)
