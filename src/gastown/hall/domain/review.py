"""Reviews: a bead of the type merge_request, made when an agent hands its work in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Review"]


@dataclass(frozen=True, kw_only=True)
class Review:
    """What a review is about: the work's bead and branch. The hall alone writes a review's metadata.

    `branch` is the one that the hall has assigned, `named_branch` the one that the author named.
    """

    source_bead_id: str | None
    branch: str | None
    pr_url: str | None = None
    named_branch: str | None = None

    def metadata(self) -> dict[str, Any]:
        return {
            "branch": self.branch,
            "pr_url": self.pr_url,
            "source_bead_id": self.source_bead_id,
            "named_branch": self.named_branch,
        }
