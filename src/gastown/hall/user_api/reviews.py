"""The routes about work that is handed in: what there is, and what it would bring."""

from __future__ import annotations

from gastown.hall.api.context import context, on_board
from gastown.hall.control_client import ControlCallFailed
from gastown.hall.domain.errors import Conflict
from gastown.hall.store import people
from gastown.hall.store.transaction import Transaction
from gastown.hall.user_api import shown, views
from gastown.hall.user_api.routes import Route

__all__ = ["ROUTES"]


async def list_reviews(town: str) -> list[shown.ReviewShown]:
    """What is handed in and not merged yet, what waits for longest first."""
    return await on_board(town, views.reviews)


async def show_review(town: str, bead: str) -> shown.ReviewDetail:
    """What is handed in for a bead, as its branch is now. An approval without a `head` is of what was seen."""
    one = await on_board(town, lambda board: _review(board, bead))
    changes, unseen = await _changes(one)
    if changes is not None and changes.head != one.head:
        one = await on_board(town, lambda board: _seen(board, one, changes.head))
    return shown.ReviewDetail(**one.model_dump(), changes=changes, unseen=unseen)


def _review(board: Transaction, bead: str) -> shown.ReviewShown:
    found = people.named(board, bead)
    for one in views.reviews(board):
        if one.bead == found.id:
            return one
    raise Conflict(f"Bead {found.id} is {found.status}, and has nothing handed in", f"gastown why {found.id}")


def _seen(board: Transaction, one: shown.ReviewShown, head: str) -> shown.ReviewShown:
    """Somebody has seen the commit `head`; the review as it is then, or was, where it has ended meanwhile."""
    people.head_seen(board, one.bead, head)
    return next((now for now in views.reviews(board) if now.bead == one.bead), one)


async def _changes(one: shown.ReviewShown) -> tuple[shown.ChangesShown | None, str | None]:
    """What a branch would bring, or why that is not known."""
    ask = context().desk.changes
    if ask is None:
        return None, "the town has no container now"
    try:
        found = await ask(one.rig, one.branch)
    except (ControlCallFailed, LookupError) as error:
        return None, str(error)
    files = tuple(
        shown.FileChanged(path=file.path, added=file.added, removed=file.removed) for file in found.files
    )
    kept = found.model_dump(include={"head", "base", "files_cut", "patch", "patch_cut"})
    return shown.ChangesShown(files=files, **kept), None


ROUTES = (
    Route(method="GET", path="/reviews", handler=list_reviews, answer=shown.ReviewShown, many=True),
    Route(method="GET", path="/beads/<bead>/review", handler=show_review, answer=shown.ReviewDetail),
)
