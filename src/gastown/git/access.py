"""How a git, ours or an agent's, finds our credential helper, and how the helper proves whose git it is for."""

from __future__ import annotations

import hashlib
import hmac
import os
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

    A key names a rig, an agent or a command of our own, and the user (`uid`) that may present it, and cannot be
    made for another. It is worth nothing outside of this container and nothing after its end. `python` is one that
    every user of git may run.
    """

    socket: str
    secret: bytes = field(repr=False)
    python: str = sys.executable

    def key(self, rig_id: str, agent_id: str, uid: int | None = None) -> str:
        asker = f"{rig_id}/{agent_id}/{os.getuid() if uid is None else uid}"
        return f"{asker}/{hmac.new(self.secret, asker.encode(), hashlib.sha256).hexdigest()}"

    def owner(self, key: str, uid: int) -> tuple[str, str] | None:
        """Rig and agent of a key that the user `uid` shows; None for one that is not ours, or not that user's."""
        rig_id, _, rest = key.partition("/")
        agent_id = rest.partition("/")[0]
        if not hmac.compare_digest(key.encode(), self.key(rig_id, agent_id, uid).encode()):
            return None
        return rig_id, agent_id

    def variables(self, rig_id: str, agent_id: str, uid: int | None = None) -> dict[str, str]:
        """The asker's key, for the environment of a git that `uid` runs; our own user, if none is named."""
        return {"GASTOWN_GIT_SOCKET": self.socket, "GASTOWN_GIT_KEY": self.key(rig_id, agent_id, uid)}

    @property
    def config(self) -> tuple[tuple[str, str], ...]:
        """The empty entry takes all other helpers away: one that stores would write our token to the disk."""
        command = "!" + shlex.join((self.python, "-I", "-S", str(_HELPER)))
        return (
            ("credential.helper", ""),
            ("credential.helper", command),
            ("credential.useHttpPath", "true"),
        )

    def agent_variables(
        self, rig_id: str, agent_id: str, uid: int | None = None, *more: tuple[str, str]
    ) -> dict[str, str]:
        """All that an agent's own git needs, with `more` configuration. The same for the same agent as long as
        this container lives.
        """
        return {
            "GIT_TERMINAL_PROMPT": "0",
            **self.variables(rig_id, agent_id, uid),
            **config_variables((*self.config, *more)),
        }
