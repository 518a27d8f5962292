"""Reviews: a bead of the type merge_request, made when an agent hands its work in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from gastown.hall.domain.bead import Bead, BeadType
from gastown.hall.domain.errors import Conflict

__all__ = ["Review", "rework_metadata"]


@dataclass(frozen=True, kw_only=True)
class Review:
    """What a review is about: the work's bead and branch. The hall alone writes a review's metadata."""

    source_bead_id: str | None
    branch: str | None
    pr_url: str | None = None

    @classmethod
    def of(cls, bead: Bead) -> Self:
        """The review that `bead` is; Conflict when it is none."""
        if bead.type != BeadType.MERGE_REQUEST:
            raise Conflict(f"Bead {bead.id} is no review")
        about = bead.metadata
        return cls(
            source_bead_id=about.get("source_bead_id"), branch=about.get("branch"), pr_url=about.get("pr_url")
        )

    def metadata(self) -> dict[str, Any]:
        return {"branch": self.branch, "pr_url": self.pr_url, "source_bead_id": self.source_bead_id}


def rework_metadata(review: Bead, files: list[str]) -> dict[str, Any]:
    """The metadata of a bead for the changes that a review asks for."""
    return review.metadata | {"files": files, "review_bead_id": review.id}
