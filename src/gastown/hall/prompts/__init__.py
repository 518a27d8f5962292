"""What each role is told about itself, one file a role."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

__all__ = ["ROLES", "prompt_of"]

ROLES = ("mayor", "polecat", "refinery", "triage")


@cache
def prompt_of(role: str) -> str:
    """The system prompt of a role; LookupError where it has none."""
    if role not in ROLES:
        raise LookupError(f"there is no prompt for the role {role}")
    return files("gastown.hall.prompts").joinpath(f"{role}.md").read_text("utf-8")
