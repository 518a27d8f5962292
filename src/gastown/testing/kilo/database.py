"""What a kilo keeps in its database. It survives the servers of its agent."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from typing import Any

__all__ = ["Home", "Message", "Session"]

Message = dict[str, Any]
"""The `info` of a message."""


@dataclass
class Session:
    """A conversation as the database keeps it. `messages` are the `info` of each, oldest first."""

    id: str
    directory: str
    title: str
    model: dict[str, str] | None = None
    updated: int = 0
    messages: list[Message] = field(default_factory=list[Message])

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "directory": self.directory,
            "title": self.title,
            "model": self.model,
            "time": {"created": 0, "updated": self.updated},
        }

    def ends_in_gateway_error(self) -> bool:
        """Whether the newest message is a turn that the gateway has failed."""
        last = self.messages[-1] if self.messages else {}
        return (last.get("error") or {}).get("name") == "APIError"

    def model_of(self, prompt: dict[str, Any]) -> dict[str, str]:
        """The model of a prompt, or that of the last message: what was set for the session is not asked."""
        last: list[dict[str, str]] = [
            {"providerID": "kilo", "modelID": message["modelID"]} for message in self.messages[-1:]
        ]
        model: dict[str, str] = prompt.get("model") or (last[0] if last else {})
        return model


class Home:
    """The sessions of one agent's home directory."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.sessions: dict[str, Session] = {}
        self.clock = count(1)
        self._ids = count(1)

    def session(self, directory: str, title: str) -> Session:
        """Make a session."""
        session = Session(f"ses_{self.name}_{next(self._ids)}", directory, title, updated=next(self.clock))
        self.sessions[session.id] = session
        return session

    def message(self, session: Session, role: str, model: dict[str, str]) -> Message:
        """Add a message to a session."""
        info: Message = {
            "id": f"msg_{self.name}_{next(self._ids)}",
            "sessionID": session.id,
            "role": role,
            "time": {"created": next(self.clock)},
            "modelID": model.get("modelID"),
        }
        session.messages.append(info)
        session.updated = next(self.clock)
        return info

    def completed(self, message: Message) -> None:
        """Note that a message is complete."""
        message["time"] = {**message["time"], "completed": next(self.clock)}
