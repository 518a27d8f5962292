"""How a git, ours or an agent's, finds our credential helper, and how the helper shows for whom it asks."""

from __future__ import annotations

import hashlib
import hmac
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path

from gastown.git.command import config_variables

__all__ = ["HelperAccess"]

_HELPER = Path(__file__).with_name("credential_helper.py")


@dataclass(frozen=True)
class HelperAccess:
    """Where the control server answers helpers, and the secret from which each asker's key is made.

    A key names a rig and an agent, or a command of our own, and cannot be made for another. It is
    worth nothing outside of this container and nothing after its end.
    """

    socket: str
    secret: bytes = field(repr=False)

    def key(self, rig_id: str, agent_id: str) -> str:
        who = f"{rig_id}/{agent_id}"
        return f"{who}/{hmac.new(self.secret, who.encode(), hashlib.sha256).hexdigest()}"

    def owner(self, key: str) -> tuple[str, str] | None:
        """Rig and agent of a key; None for one that is not ours."""
        rig_id, _, rest = key.partition("/")
        agent_id = rest.partition("/")[0]
        if not hmac.compare_digest(key.encode(), self.key(rig_id, agent_id).encode()):
            return None
        return rig_id, agent_id

    def variables(self, rig_id: str, agent_id: str) -> dict[str, str]:
        """Who asks, for the environment of git."""
        return {"GASTOWN_GIT_SOCKET": self.socket, "GASTOWN_GIT_KEY": self.key(rig_id, agent_id)}

    @property
    def config(self) -> tuple[tuple[str, str], ...]:
        """The empty entry takes all other helpers away: one that stores would write our token to the disk."""
        command = "!" + shlex.join((sys.executable, "-I", "-S", str(_HELPER)))
        return (
            ("credential.helper", ""),
            ("credential.helper", command),
            ("credential.useHttpPath", "true"),
        )

    def agent_variables(self, rig_id: str, agent_id: str) -> dict[str, str]:
        """All that an agent's own git needs. The same for the same agent as long as this container lives."""
        return {
            "GIT_TERMINAL_PROMPT": "0",
            **self.variables(rig_id, agent_id),
            **config_variables(self.config),
        }
