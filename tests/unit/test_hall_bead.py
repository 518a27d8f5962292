"""The states of a bead: which may follow which, without a database and without a request."""

from __future__ import annotations

from itertools import product

import pytest

from gastown.hall.domain.bead import (
    FINISHED,
    Bead,
    BeadState,
    check_edge,
)
from gastown.hall.domain.errors import Conflict, IllegalEdge
from gastown.hall.domain.rig_agent import RigAgent, name_for

MOMENT = "2030-05-01T12:00:00.000Z"
FORWARD = {
    ("open", "in_progress"),
    ("open", "closed"),
    ("open", "failed"),
    ("in_progress", "open"),
    ("in_progress", "in_review"),
    ("in_progress", "closed"),
    ("in_progress", "failed"),
    ("in_review", "in_progress"),
    ("in_review", "closed"),
    ("in_review", "failed"),
}
RETRIED = {("closed", "open"), ("failed", "open")}
PAIRS = list(product(BeadState, repeat=2))


def bead(status: str, kind: str = "issue") -> Bead:
    return Bead(
        id="bead-1", rig_id="r", type=kind, status=status, title="Mend", body=None, priority="medium",
        labels=[], metadata={}, step=0, assignee=None, created_by=None, convoy_id=None,
        created_at=MOMENT, updated_at=MOMENT, closed_at=None, depends_on=(),
    )  # fmt: skip


@pytest.mark.parametrize("is_retry", [False, True])
@pytest.mark.parametrize(("state", "to"), PAIRS)
def test_every_pair_of_states_is_an_edge_a_retry_or_refused(
    state: BeadState, to: BeadState, is_retry: bool
) -> None:
    """Of the 25 pairs ten are edges, two a person's retry, five change nothing; the others are refused."""
    if state is to:
        assert not check_edge(bead(state), to, is_retry=is_retry)
    elif (state, to) in FORWARD or ((state, to) in RETRIED and is_retry):
        assert check_edge(bead(state), to, is_retry=is_retry)
    else:
        with pytest.raises(IllegalEdge, match=f"bead-1 is {state} and cannot become {to}"):
            check_edge(bead(state), to, is_retry=is_retry)


def test_the_refusal_of_a_retry_says_that_a_person_may() -> None:
    """The sentence names the way out."""
    with pytest.raises(IllegalEdge, match="unless a person retries it"):
        check_edge(bead("failed"), BeadState.OPEN)


@pytest.mark.parametrize("state", sorted(FINISHED))
def test_a_finished_bead_is_given_to_no_agent(state: BeadState) -> None:
    """An agent with a finished bead could never hand it in."""
    free = RigAgent(
        rig_id="r", id="a", role="polecat", name="Ash", bead_id=None,
        status_message=None, checkpoint=None, created_at=MOMENT, last_activity_at=None,
    )  # fmt: skip
    with pytest.raises(Conflict, match=f"Bead bead-1 is {state}"):
        free.check_may_take(bead(state))


def test_names_go_round_with_a_number() -> None:
    """The thirteenth agent of a rig has the first name again, told apart by its number."""
    assert [name_for(0), name_for(11), name_for(12), name_for(24)] == ["Ash", "Yew", "Ash-2", "Ash-3"]
