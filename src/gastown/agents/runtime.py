"""An agent's use of a server, for as long as it has one."""

from __future__ import annotations

from dataclasses import dataclass, field

import trio

from gastown.agents.launch.plan import StartPlan
from gastown.kilo.pool import Lease, Server

__all__ = ["Runtime"]


@dataclass(eq=False)
class Runtime:
    """A leased server, the agent's session on it, and the tasks that go with it.

    `listening` ends the hearing of the server's events. `swap` is held for a whole change of server, `switch` only
    for the moment in which one server takes over from the other: no prompt may be sent then.
    """

    plan: StartPlan
    lease: Lease
    session_id: str
    nursery: trio.Nursery
    listening: trio.CancelScope = field(default_factory=trio.CancelScope)
    swap: trio.Lock = field(default_factory=trio.Lock)
    switch: trio.Lock = field(default_factory=trio.Lock)

    @property
    def server(self) -> Server:
        return self.lease.server

    @property
    def is_stale(self) -> bool:
        """Whether a part of the server's environment is not what the agent needs now."""
        return self.plan.spec().fingerprint != self.server.spec.fingerprint
