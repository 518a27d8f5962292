"""The identity of a commit: author and committer at once, in the variables that git reads."""

from __future__ import annotations

__all__ = ["IDENTITY", "identity"]


def identity(name: str, email: str) -> dict[str, str]:
    """The variables that make `name` both author and committer."""
    values = (("NAME", name), ("EMAIL", email))
    return {f"GIT_{role}_{what}": value for role in ("AUTHOR", "COMMITTER") for what, value in values}


IDENTITY = identity("gastown", "gastown@gastown.local")
"""Ours, for commits that are no agent's work."""
