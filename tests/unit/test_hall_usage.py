"""The hall's sums of what models came to: each call once, whose figures count, and whose day it is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from gastown.contract.secret import Secret
from gastown.hall.domain.convoy import ConvoyPlan, Task
from gastown.hall.domain.policy import Policy
from gastown.hall.domain.town import RigRecord
from gastown.hall.domain.usage import Source, Spending, Use
from gastown.hall.reconcile import facts
from gastown.hall.store import beads, board, convoys, policies, usage
from gastown.hall.store.database import Store, open_store
from gastown.hall.store.tables import usage_seen
from gastown.hall.store.town_state import state_of, take, take_budget
from gastown.hall.store.transaction import Transaction

NOW = datetime(2030, 5, 1, 12, 0, tzinfo=UTC)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(tmp_path / "hall.db", lambda: NOW) as store:
        await store.create_town("oak", name="oak", jwt_secret=Secret("s" * 40), mayor_agent_id="mayor-1")
        await store.save_rig("oak", RigRecord(rig_id="r", git_url="https://x.test/r", default_branch="main"))
        yield store


def use(number: int, agent_id: str = "mayor-1", **more: Any) -> Use:
    known: dict[str, Any] = {"attempt_id": "a1", "source": Source.GATEWAY, "input": 10, "output": 1, "cost": 0.25}
    return Use(agent_id=agent_id, call_id=f"call-{number}", **known | more)


async def sums(store: Store, *uses: Use) -> Spending:
    def work(transaction: Transaction) -> Spending:
        usage.count(transaction, uses)
        return usage.together(usage.spent_by_bead(transaction).values())

    return await store.transaction("oak", work)


async def test_a_call_that_is_told_again_is_counted_once(store: Store) -> None:
    told = [use(1), use(2), use(1)]
    first = await sums(store, *told)
    again = await sums(store, *told, use(1, cost=99))
    assert first == again == Spending(calls=2, input=20, output=2, cost=0.5, source=Source.GATEWAY)


async def test_calls_of_two_agents_may_have_the_same_id(store: Store) -> None:
    assert (await sums(store, use(1), use(1, "polecat-9"))).calls == 2


async def test_kilos_figures_count_only_where_the_gateway_said_nothing(store: Store) -> None:
    of_kilo = [use(10, source=Source.KILO, cost=9), use(11, "polecat-9", source=Source.KILO, cost=2)]
    assert (await sums(store, *of_kilo)).cost == 11
    both = await sums(store, use(1))
    assert (both.calls, both.cost, both.source) == (2, 2.25, Source.KILO)


async def test_a_cost_that_is_not_known_is_no_0(store: Store) -> None:
    assert (await sums(store, use(1, cost=None))).cost is None
    assert await sums(store, use(2, cost=0)) == Spending(
        calls=2, unpriced=1, input=20, output=2, cost=0, source=Source.GATEWAY
    )


async def test_numbers_that_no_call_can_have_break_no_sum(store: Store) -> None:
    odd = [use(n, input=2**62, output=-5, cost=cost) for n, cost in enumerate([float("nan"), 1e300, -1.0])]
    spent = await sums(store, *odd)
    assert (spent.calls, spent.unpriced, spent.input, spent.output, spent.cost) == (3, 3, 3 * 10**9, 0, None)


async def test_a_call_after_its_attempt_belongs_to_the_agents_last_one(store: Store) -> None:
    """An agent says its last words after gt_done; the container knows it by its first attempt."""

    def work(transaction: Transaction) -> Any:
        made = beads.make_bead(transaction, "r", "issue", "Mend")
        take(transaction, facts.ContainerReady())
        board.add_work(transaction, [beads.bead(transaction, made.id)])
        author = state_of(transaction).work[made.id].author or ""
        usage.count(transaction, [use(1, author)])
        board.finish_work(transaction, "r", author, branch="b", pr_url=None, summary=None)
        usage.count(transaction, [use(2, author)])
        return [one.cost for one in usage.spent_by_attempt(transaction, made.id).values()]

    assert await store.transaction("oak", work) == [0.5]


async def test_a_budget_that_is_followed_call_by_call_is_the_one_that_is_read_whole(store: Store) -> None:
    """A gateway's figures may even take the place of kilo's larger ones."""

    def work(transaction: Transaction) -> list[tuple[str, ...]]:
        policies.change_policy(transaction, Policy(budget_bead=0.5))
        take(transaction, facts.ContainerReady())
        made = [beads.make_bead(transaction, "r", "issue", title) for title in ("One", "Two")]
        board.add_work(transaction, made)
        authors = [state_of(transaction).work[one.id].author or "" for one in made]
        told = [use(1, authors[0]), use(2, authors[1], source=Source.KILO, cost=9), use(3, authors[0])]
        found: list[tuple[str, ...]] = []
        for one in [*told, use(4, authors[1]), use(5)]:
            take_budget(transaction, usage.count(transaction, [one]))
            assert state_of(transaction).budget == usage.budget_of(transaction)
            over = state_of(transaction).budget.beads
            found.append(tuple(bead.title for bead in made if bead.id in over))
        return found

    found = await store.transaction("oak", work)
    assert found == [(), ("Two",), ("One", "Two"), ("One",), ("One",)]


async def test_a_convoy_costs_what_its_beads_cost(store: Store) -> None:
    def work(transaction: Transaction) -> list[float | None]:
        plan = ConvoyPlan(rig_id="r", title="All", tasks=[Task(title="One"), Task(title="Two")], merge_mode="m")
        made, given = convoys.make_convoy(transaction, plan)
        costs = [convoys.convoy(transaction, made.id).cost]
        take(transaction, facts.ContainerReady())
        for number, one in enumerate(given):
            usage.count(transaction, [use(number, one.agent.id if one.agent else "")])
        return [*costs, convoys.convoy(transaction, made.id).cost]

    assert await store.transaction("oak", work) == [None, 0.5]


async def test_the_calls_that_are_remembered_are_bounded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "MOST_SEEN", 10)
    monkeypatch.setattr(usage, "_PRUNED_EVERY", 5)

    def work(transaction: Transaction) -> int:
        usage.count(transaction, [use(number) for number in range(16)])
        usage.count(transaction, [use(16)])
        return len(transaction.rows(select(usage_seen.c.number)))

    assert await store.transaction("oak", work) == 10
    assert (await sums(store, use(16))).calls == 17


async def test_a_hall_that_opens_again_knows_what_is_used_up(store: Store, tmp_path: Path) -> None:
    def spend(transaction: Transaction) -> None:
        policies.change_policy(transaction, Policy(budget_day=0.2))
        usage.count(transaction, [use(1)])
        take_budget(transaction)

    await store.transaction("oak", spend)
    async with open_store(tmp_path / "hall.db", lambda: NOW) as again:
        day = (await again.state("oak")).budget.day
    assert day == (await store.state("oak")).budget.day
    assert day is not None


@pytest.mark.parametrize(
    ("zone", "day", "midnight"),
    [
        ("UTC", "2030-05-01", datetime(2030, 5, 2, tzinfo=UTC)),
        ("Pacific/Kiritimati", "2030-05-02", datetime(2030, 5, 2, 10, tzinfo=UTC)),
        ("America/Los_Angeles", "2030-05-01", datetime(2030, 5, 2, 7, tzinfo=UTC)),
        (None, None, None),
        ("No/Such", None, None),
    ],
)
def test_a_day_is_that_of_the_towns_zone_or_of_the_machine(
    zone: str | None, day: str | None, midnight: datetime | None
) -> None:
    local = NOW.astimezone()
    town = Policy(time_zone=zone)
    found = usage.midnight_after(NOW, town)
    assert usage.day_of(NOW, town) == (day or local.date().isoformat())
    assert midnight is None or found == midnight
    assert found > NOW
    assert usage.day_of(found, town) > usage.day_of(NOW, town)
