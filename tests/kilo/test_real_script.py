"""A script plays the mayor and a polecat on the real kilo: from a wish to work that is handed in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from gastown.contract.events import AgentEvent
from gastown.hall.dispatch.dispatcher import Dispatcher
from gastown.hall.domain.bead import Bead
from gastown.hall.domain.town import RigRecord
from gastown.hall.reconcile.state import HandInPhase, Work
from gastown.hall.store import beads
from gastown.hall.store.transaction import Transaction
from gastown.hall.user_api import views
from gastown.hall.user_api.shown import Detail
from gastown.testing.script import bash, call, fail, keep, say, script, when, write
from tests.git.server import open_git_server
from tests.kilo.town import RealTown, eventually, real_town

pytestmark = pytest.mark.kilo

WRITE = (
    "echo hello {{name}} > hello.txt && git add . && git commit -qm 'Greet {{name}}' && git push -q origin HEAD"
)
QUEUED, REVIEW = {"bead": keep("bead.bead_id")}, {"review": keep("review_bead_id")}
PLAYED = script(
    "one wish",
    when(r"Please greet (?P<name>\w+)", role="mayor")
    .then(call("gt_sling", QUEUED, rig_id="rig", title="Greet {{name}}", body="In hello.txt."))
    .then(say("It is queued as {{bead}}.")),
    when(r"bead (?P<bead>\S+): Greet (?P<name>\w+)[\s\S]*on the branch (?P<branch>\S+) of", role="polecat")
    .then(
        say("I write it.", cost=0.25),
        bash(WRITE),
        bash("git rev-parse HEAD", {"commit": keep(pattern="[0-9a-f]{40}")}),
    )
    .then(
        fail(429, "slow down", times=1), call("gt_done", REVIEW, branch="{{branch}}", summary="It is {{commit}}")
    )
    .then(say("Handed in as {{review}}.", cost=0.5)),
)


def words(events: Sequence[AgentEvent]) -> str:
    return "".join(
        str(event.data.get("delta", ""))
        for event in events
        if event.event == "message.part.delta" and event.data.get("field") == "text"
    )


async def handed_in(town: RealTown) -> Work | None:
    """The town's one piece of work, once somebody may look at it."""
    work = list((await town.hall.store.state(town.hall.town_id)).work.values())
    done = [one for one in work if one.hand_in is not None and one.hand_in.phase is HandInPhase.ASKING]
    return done[0] if done else None


async def review_of(town: RealTown, work: Work) -> Bead:
    assert work.hand_in is not None
    hand_in = work.hand_in.id
    return await town.hall.store.transaction(town.hall.town_id, lambda board: beads.bead(board, hand_in))


async def cost_of(town: RealTown, agent_id: str, most: float) -> float:
    """What an agent has cost, once that is `most` or more."""
    told = [
        event.data["cost"] or 0.0 for event in await town.dispatch.events(agent_id) if event.event == "agent.usage"
    ]
    return sum(told) if sum(told) >= most else 0.0


async def charged(town: RealTown, bead_id: str, most: float) -> Detail | None:
    """A bead as people are shown it, once it has cost `most` or more by what the gateway said."""

    def read(board: Transaction) -> Detail:
        return views.detail(board, beads.bead(board, bead_id))

    found = await town.hall.store.transaction(town.hall.town_id, read)
    return found if (found.bead.cost or 0) >= most else None


async def test_a_wish_becomes_work_that_is_handed_in_as_the_script_says(tmp_path: Path) -> None:
    """The mayor slings; a polecat commits, pushes and calls gt_done, with what messages and results tell them."""
    async with open_git_server(tmp_path / "served") as server:
        server.make("r", {"a.txt": "one\n"})
        options: dict[str, Any] = {
            "script": write(PLAYED, tmp_path / "script.json"),
            "rigs": [RigRecord(rig_id="rig", git_url=server.url("r"), default_branch="main")],
        }
        async with real_town(tmp_path / "town", options) as town, trio.open_nursery() as nursery:
            nursery.start_soon(Dispatcher(town.hall, town.dispatch).run)
            await town.prewarmed()
            mayor = await town.hall.start_mayor(town.dispatch, "Please greet Ada")
            work: Work = await eventually(lambda: handed_in(town), 120)
            assert work.author is not None
            assert work.branch is not None
            author = work.author

            async def said(agent_id: str, end: str) -> str:
                text = words(await town.dispatch.events(agent_id))
                return text if end in text else ""

            by_mayor = await eventually(lambda: said(mayor.agent_id, "queued as"))
            by_author = await eventually(lambda: said(author, "Handed in as"))
            review = await review_of(town, work)
            spent = await eventually(lambda: cost_of(town, author, 0.75))
            shown: Detail = await eventually(lambda: charged(town, work.bead_id, 0.75))
            status = await town.dispatch.status(author)
            nursery.cancel_scope.cancel()
        commits = server.git("r", "rev-list", work.branch).split()
        assert server.read("r", work.branch, "hello.txt") == "hello Ada\n"
    assert by_mayor.startswith("(A script plays here, no language model: “one wish”.)")
    assert f"It is queued as {work.bead_id}." in by_mayor
    assert f"Handed in as {review.id}." in by_author
    assert (str(review.body).removeprefix("It is ") in commits, spent) == (True, 0.75)
    assert (shown.bead.cost, shown.usage.source, shown.usage.unpriced) == (0.75, "gateway", 0)
    assert [attempt.cost for attempt in shown.attempts] == [0.75]
    assert status is not None
    assert status.usage is not None
    assert status.model_calls is not None
    assert status.model_calls.input >= status.usage.input > 0, "kilo does not count the titles that it asks for"
