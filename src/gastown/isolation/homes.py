"""Where an agent and its plugin keep their files."""

from __future__ import annotations

from pathlib import Path

from gastown.isolation.users import User

__all__ = ["dashboard_file", "temporary"]


def dashboard_file(home_root: str, mayor: User | None = None) -> str:
    """Where the mayor's plugin reads what the user's dashboard shows; a `mayor` has a directory for it."""
    before = f"{home_root}/gastown-" + ("mayor/" if mayor is not None else "")
    return f"{before}dashboard-context.json"


def temporary(home: str) -> str:
    """Where an agent's temporary files go, if it is a user of its own."""
    return str(Path(home) / "tmp")
