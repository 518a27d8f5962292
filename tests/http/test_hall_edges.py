"""The states of beads as the tools meet them."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import event

from gastown.hall.domain.bead import Bead, BeadState
from gastown.hall.domain.errors import IllegalEdge
from gastown.hall.domain.town import RigRecord
from gastown.hall.hall import HallOptions, open_hall
from gastown.hall.reconcile import facts
from gastown.hall.store import beads
from gastown.hall.store.transaction import Transaction
from tests.http.test_hall_board import Board, M, R, Said, reviewed
from tests.http.test_hall_board import board as board  # noqa: PLC0414  the fixture


async def test_a_bead_begins_with_its_agent_and_a_blocked_one_waits(board: Board) -> None:
    """In progress is what an agent has begun, and nothing else."""
    _, beads_made = await board.convoy({"title": "a"}, {"title": "b", "depends_on": [0]})
    assert [(await board.bead(one))["status"] for one in beads_made] == ["open", "open"]
    await board.take(facts.ContainerReady())
    assert [(await board.bead(one))["status"] for one in beads_made] == ["in_progress", "open"]


async def test_an_illegal_edge_is_a_409_with_a_sentence_and_changes_nothing(board: Board) -> None:
    """A closed bead neither fails nor goes to review, also not together with another change."""
    bead_id, agent = await board.sling()
    await board.ask("POST", f"{R}/beads/{bead_id}/close", {"agent_id": agent}, agent=agent)
    before = await board.bead(bead_id)
    for to in ("failed", "in_review", "in_progress"):
        with pytest.raises(Said, match=f"409 Bead {bead_id} is closed and cannot become {to}"):
            await board.ask("PATCH", f"{M}/rigs/r1/beads/{bead_id}", {"status": to, "title": "Other"})
    assert await board.bead(bead_id) == before


async def test_a_rig_agent_cannot_close_what_has_failed(board: Board) -> None:
    """The mayor, who speaks for a person, opens it again; then it can be closed."""
    bead_id, agent = await board.sling()
    await board.ask("PATCH", f"{M}/rigs/r1/beads/{bead_id}", {"status": "failed"})
    with pytest.raises(Said, match="409"):
        await board.ask("POST", f"{R}/beads/{bead_id}/close", {}, agent=agent)
    await board.ask("PATCH", f"{M}/rigs/r1/beads/{bead_id}", {"status": "open"})
    assert (await board.ask("POST", f"{R}/beads/{bead_id}/close", {}, agent=agent))["status"] == "closed"


async def test_closing_twice_is_closing_once(board: Board) -> None:
    """A repeated call gets the same answer."""
    bead_id, _ = await board.sling()
    once = await board.ask("POST", f"{R}/beads/{bead_id}/close", {})
    assert await board.ask("POST", f"{R}/beads/{bead_id}/close", {}) == once


async def test_a_review_of_work_that_failed_meanwhile_ends_with_it(board: Board) -> None:
    """The work stays failed, and the refinery is free."""
    bead_id, review, refinery = await reviewed(board)
    await board.ask("PATCH", f"{M}/rigs/r1/beads/{bead_id}", {"status": "failed"})
    assert [(await board.bead(one))["status"] for one in (bead_id, review)] == ["failed", "closed"]
    assert (await board.agents())[refinery]["status"] == "idle"


async def test_an_agent_that_began_a_blocked_bead_can_hand_it_in(board: Board) -> None:
    """The board records what was done: the bead passes through in_progress into review."""
    _, (_, blocked) = await board.convoy({"title": "a"}, {"title": "b", "depends_on": [0]})
    worker = (await board.bead(blocked))["assignee_agent_id"]
    await board.ask("POST", f"{R}/agents/{worker}/done", {"branch": "b"})
    assert (await board.bead(blocked))["status"] == "in_review"


async def test_a_reassigned_bead_has_one_holder(board: Board) -> None:
    """The agent that had it before is free for other work."""
    bead_id, first = await board.sling()
    await board.ask("GET", f"{R}/agents/second/prime", agent="second")
    await board.ask("POST", f"{M}/rigs/r1/beads/{bead_id}/reassign", {"agent_id": "second"})
    agents = await board.agents()
    assert (agents[first]["current_hook_bead_id"], agents["second"]["current_hook_bead_id"]) == (None, bead_id)


async def test_a_finished_bead_is_not_assigned(board: Board) -> None:
    """An agent with a closed bead could never finish."""
    bead_id, agent = await board.sling()
    await board.ask("POST", f"{R}/beads/{bead_id}/close", {})
    with pytest.raises(Said, match=f"409 Bead {bead_id} is closed"):
        await board.ask("POST", f"{M}/rigs/r1/beads/{bead_id}/reassign", {"agent_id": agent})


async def test_beads_are_listed_with_their_blockers_by_one_query(tmp_path: Path) -> None:
    """The number of statements does not grow with the number of beads; and the board needs no request."""
    statements: list[str] = []
    async with open_hall(HallOptions(data_dir=tmp_path, town_id="oak")) as hall:
        await hall.store.save_rig("oak", RigRecord(rig_id="r1", git_url="https://x.test/r", default_branch="m"))

        def work(board: Transaction) -> list[Bead]:
            made = [beads.make_bead(board, "r1", "issue", f"bead {number}") for number in range(20)]
            for one in made[1:]:
                beads.set_blockers(board, one.id, [made[0].id])
            with pytest.raises(IllegalEdge):
                beads.move_bead(board, made[0].id, BeadState.IN_REVIEW)
            event.listen(board.db, "before_cursor_execute", lambda *given: statements.append(given[2]))
            return beads.beads(board, "r1")

        found = await hall.store.transaction("oak", work)
    assert [one.depends_on for one in found] == [(), *[(found[0].id,)] * 19]
    assert len(statements) == 1
