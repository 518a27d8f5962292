"""`gastown review show` and `approve`: the diff that a person sees, and the commit that an approval is of."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gastown.hall.dispatch.look import changes_of
from gastown.hall.hall import HallOptions, open_hall
from gastown.hall.reconcile import facts
from gastown.hall.reconcile.actions import Merge
from gastown.hall.reconcile.step import outstanding
from gastown.hall.store import rigs
from tests.http.scripted_container import ScriptedContainer, controlled
from tests.http.test_town_commands import RIG, Desk

FIRST, SECOND = "a" * 40, "b" * 40
PATCH = "--- a/door\n+++ b/door\n@@ -1 +1,2 @@\n-squeaks\r\n+\tis \x1b[31moiled\u202e\n"


@dataclass
class Review:
    """A desk, a bead that is handed in, and what its container says of the branch."""

    desk: Desk
    container: ScriptedContainer
    bead: str = ""

    def branch_is_at(self, head: str, **more: Any) -> None:
        """From now on, with a small change."""
        said = {
            "rigId": "r1",
            "branch": f"gt/ash/{self.bead}",
            "target": "main",
            "head": head,
            "base": "c" * 40,
            "files": [{"path": "door", "added": 1, "removed": 1}, {"path": "bell\n.png"}],
            "filesCut": False,
            "patch": PATCH,
            "patchCut": False,
        }
        self.container.answers["/rigs/r1/changes"] = [(200, said | more)]

    async def merged_heads(self) -> list[str | None]:
        """The commits that the container is to merge."""
        state = await self.desk.hall.store.state("oak")
        return [one.head for one in outstanding(state) if isinstance(one, Merge)]


@pytest.fixture
async def review(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> AsyncIterator[Review]:
    container = ScriptedContainer()
    async with (
        open_hall(HallOptions(data_dir=tmp_path, town_id="oak")) as hall,
        controlled(container) as control,
    ):
        await hall.store.transaction("oak", lambda board: rigs.put_rig(board, RIG))
        desk = Desk(hall, tmp_path, capsys)
        hall.desk.changes = partial(changes_of, hall, control)
        made = Review(desk, container, await desk.sling("Mend"))
        await desk.take(facts.ContainerReady())
        await desk.hand_in(made.bead)
        made.branch_is_at(FIRST)
        yield made


async def test_the_diff_is_shown_and_cannot_steer_a_terminal(review: Review) -> None:
    """What is no character to print is an escape, in names and in lines; tabs stay."""
    told = await review.desk.text("review", "show", review.bead)
    assert f"branch    gt/ash/{review.bead} at {FIRST}\n" in told
    assert told.endswith(
        "ADDED    REMOVED  FILE\n"
        "+1       -1       door\n"
        "no text  no text  bell .png\n"
        "\n"
        "--- a/door\n"
        "+++ b/door\n"
        "@@ -1 +1,2 @@\n"
        "-squeaks\\r\n"
        "+\tis \\x1b[31moiled\\u202e\n"
    )


async def test_what_is_left_out_of_a_diff_is_said(review: Review) -> None:
    review.branch_is_at(FIRST, filesCut=True, patchCut=True)
    told = await review.desk.text("review", "show", review.bead)
    assert "… and more files\n" in told
    assert told.splitlines()[-1].startswith("… there is more: git fetch origin gt/ash/")
    review.branch_is_at(FIRST, files=[], patch="")
    assert "there is nothing to merge" in await review.desk.text("review", "show", review.bead)


async def test_the_json_of_a_review_has_its_changes(review: Review) -> None:
    shown = await review.desk.said("review", "show", review.bead)
    changes = shown["changes"]
    assert (shown["head"], shown["unseen"], changes["head"], changes["patch"]) == (FIRST, None, FIRST, PATCH)
    assert changes["files"][0] == {"path": "door", "added": 1, "removed": 1}


async def test_an_approval_is_of_the_commit_that_was_shown(review: Review) -> None:
    """What is pushed between the look and the approval is not approved with it, and not merged."""
    await review.desk.text("review", "show", review.bead)
    review.branch_is_at(SECOND)
    told = await review.desk.text("review", "approve", review.bead)
    assert told.startswith(f"commit {FIRST} is approved\n")
    assert await review.merged_heads() == [FIRST]


async def test_who_looks_again_approves_what_was_seen_again(review: Review) -> None:
    await review.desk.text("review", "show", review.bead)
    review.branch_is_at(SECOND)
    assert (await review.desk.said("review", "show", review.bead))["head"] == SECOND
    code, _, err = await review.desk.gastown("review", "approve", review.bead, "--head", FIRST)
    assert (code, f"is at {SECOND}, and not at {FIRST}" in err) == (1, True)
    await review.desk.said("review", "approve", review.bead)
    assert await review.merged_heads() == [SECOND]


async def test_an_approval_without_a_look_is_of_the_commit_of_now(review: Review) -> None:
    await review.desk.said("review", "approve", review.bead)
    assert await review.merged_heads() == [FIRST]


async def test_a_container_that_cannot_show_the_changes_hides_nothing_else(review: Review) -> None:
    review.container.answers["/rigs/r1/changes"] = [(409, {"error": "The rig is busy"})]
    told = await review.desk.text("review", "show", review.bead)
    assert "its changes cannot be seen now: GET /rigs/r1/changes" in told
    assert "look at it: git fetch origin" in told
    code, _, err = await review.desk.gastown("review", "approve", review.bead)
    assert (code, "--head COMMIT approves that one" in err) == (1, True)


async def test_what_is_not_handed_in_is_no_review(review: Review) -> None:
    other = await review.desk.sling("Oil")
    code, _, err = await review.desk.gastown("review", "show", other)
    assert (code, f"gastown why {other}" in err) == (1, True)
