"""What a town may spend: counted at the broker, summed at the hall, and held against its budgets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import trio

from gastown.hall.domain.usage import Spending
from gastown.hall.reconcile import facts
from gastown.hall.reconcile.state import TownState, WaitsFor
from gastown.hall.store import policies, town_state, usage
from gastown.hall.store.transaction import Transaction
from gastown.hall.user_api import views
from gastown.testing.asgi import Answer, Asked, answer, app_of
from gastown.testing.clock import EPOCH
from gastown.testing.town import TOWN
from tests.http.test_dispatch import SLOW, DrivenTown, driven_town

pytestmark = [pytest.mark.virtual_time, pytest.mark.usefixtures("inline")]

CHAT = "/api/openrouter/chat/completions"
AN_HOUR_BEFORE_MIDNIGHT = "Etc/GMT-11"
"""Where it is eleven at night when virtual time begins."""


class SpendingTown:
    """A town whose agents can be made to spend."""

    def __init__(self, driven: DrivenTown) -> None:
        self.driven = driven
        self.town = driven.town
        self.cost: float | None = 0.0

    async def answer(self, _asked: Asked) -> Answer:
        said = {"prompt_tokens": 10, "completion_tokens": 2}
        known = {} if self.cost is None else {"cost": self.cost}
        return answer({"model": "m", "choices": [], "usage": said | known})

    async def spend(self, agent_id: str, cost: float | None) -> None:
        """The agent's server asks a model, and the hall has heard of it."""
        self.cost = cost
        env = self.town.kilo.server(agent_id).spec.env
        client = self.town.network.client(env["GASTOWN_API_URL"])
        bearer = {"authorization": f"Bearer {env['KILOCODE_TOKEN']}"}
        assert (await client.post(CHAT, json={}, headers=bearer)).status_code == 200
        await self.town.opened.town.services.outbox.flushed()

    async def set(self, **changes: Any) -> None:
        def change(board: Transaction) -> None:
            policies.change_policy(board, replace(policies.policy(board), **changes))
            town_state.take_rules(board)

        await self.driven.change(change)

    async def spent(self) -> Spending:
        """On the town's day of now."""

        def read(board: Transaction) -> Spending:
            return usage.spent_on_day(board, usage.day_of(board.moment, policies.policy(board)))

        found: Spending = await self.driven.change(read)
        return found

    async def cost_of(self, bead_id: str) -> float | None:
        beads = await self.driven.change(lambda board: views.beads_shown(board, None, None))
        (cost,) = [one.cost for one in beads if one.id == bead_id]
        return cost if cost is None else float(cost)


@asynccontextmanager
async def spending_town(folder: Path, **options: Any) -> AsyncIterator[SpendingTown]:
    async with driven_town(folder, kilo=SLOW, kilo_api_url="http://gateway", **options) as driven:
        town = SpendingTown(driven)
        driven.town.network.serve(app_of(town.answer), "gateway")
        yield town


def waits(state: TownState, bead_id: str) -> WaitsFor | None:
    waiting = state.work[bead_id].waiting
    return None if waiting is None else waiting.what


async def test_the_cost_of_a_bead_is_what_the_gateway_said_for_its_attempts(tmp_path: Path) -> None:
    async with spending_town(tmp_path) as town:
        one, other = await town.driven.sling("One"), await town.driven.sling("Other")
        author, idle = await town.driven.running(one), await town.driven.running(other)
        assert [await town.cost_of(bead) for bead in (one, other)] == [None, None]
        for cost in (0.25, 0.5):
            await town.spend(author, cost)
        await town.spend(idle, 0)
        assert [await town.cost_of(bead) for bead in (one, other)] == [0.75, 0]
        spent = await town.spent()
        assert (spent.calls, spent.input, spent.output, spent.cost, spent.source) == (3, 30, 6, 0.75, "gateway")


async def test_what_the_gateway_does_not_price_is_unknown_and_said_so(tmp_path: Path) -> None:
    async with spending_town(tmp_path) as town:
        bead = await town.driven.sling()
        author = await town.driven.running(bead)
        await town.spend(author, None)
        assert await town.cost_of(bead) is None
        await town.spend(author, 0.5)
        spent = await town.spent()
        assert (await town.cost_of(bead), spent.cost, spent.calls, spent.unpriced) == (0.5, 0.5, 2, 1)


async def test_a_bead_over_its_budget_begins_no_more_until_it_is_raised(tmp_path: Path) -> None:
    """Its running turn goes on to its end, and other beads begin."""
    async with spending_town(tmp_path) as town:
        await town.set(budget_bead=1.0)
        bead = await town.driven.sling()
        author = await town.driven.running(bead)
        await town.spend(author, 1.25)
        assert (await town.driven.control.status(author)).status == "running"
        ended = facts.AgentEnded(agent_id=author, reason="exited")
        await town.driven.hall.store.tell(TOWN, ended)
        await town.driven.until(lambda state: waits(state, bead) is WaitsFor.BUDGET)
        waiting = (await town.driven.work(bead)).waiting
        assert waiting is not None
        assert (waiting.reason, waiting.until) == ("its budget of $1.00 is used up", None)
        await town.driven.running(await town.driven.sling("Another"))
        await trio.sleep(3600)
        assert waits(await town.driven.hall.store.state(TOWN), bead) is WaitsFor.BUDGET
        await town.set(budget_bead=2.0)
        await town.driven.until(lambda state: state.work[bead].attempt is not None)


async def test_the_towns_day_stops_starts_and_no_turn_and_midnight_lets_them_begin(tmp_path: Path) -> None:
    async with spending_town(tmp_path) as town:
        await town.set(budget_day=5.0, time_zone=AN_HOUR_BEFORE_MIDNIGHT)
        first = await town.driven.sling("First")
        author = await town.driven.running(first)
        await town.spend(author, 5.0)
        second = await town.driven.sling("Second")
        waiting = (await town.driven.work(second)).waiting
        assert waiting is not None
        assert (waiting.what, waiting.reason) == (WaitsFor.BUDGET, "the day's budget of $5.00 is used up")
        assert waiting.until == EPOCH + timedelta(hours=1)
        assert (await town.driven.work(first)).attempt is not None
        await town.driven.done(first)
        assert await town.driven.merges(), "what is handed in is merged"
        await town.driven.until(lambda state: state.work[second].attempt is not None, 3700)
        assert timedelta() <= town.driven.hall.now() - waiting.until < timedelta(seconds=5)
        assert (await town.spent()).cost is None
        assert await town.cost_of(first) == 5.0


async def test_a_higher_budget_of_the_day_lets_work_begin_at_once(tmp_path: Path) -> None:
    async with spending_town(tmp_path) as town:
        await town.set(budget_day=0.0)
        bead = await town.driven.sling()
        assert waits(await town.driven.hall.store.state(TOWN), bead) is WaitsFor.BUDGET
        await town.set(budget_day=None)
        await town.driven.until(lambda state: state.work[bead].attempt is not None, 5)
