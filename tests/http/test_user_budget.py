"""What people are told of costs and budgets by the user API."""

from __future__ import annotations

from gastown.hall.reconcile import facts
from gastown.hall.reconcile.state import Budget, OverBudget
from tests.http.test_user_api import Town, town

__all__ = ["town"]


async def test_a_budget_holds_work_and_says_what_moves_it(town: Town) -> None:
    await town.ask("PATCH", "/config", {"budgetDay": 0, "timeZone": "UTC"})
    bead = await town.sling()
    await town.take(facts.ContainerReady())
    why = await town.ask("GET", f"/beads/{bead}/why")
    assert (why["waiting"]["for"], why["says"]) == (
        "budget",
        "it waits for the budget: the day's budget of $0.00 is used up",
    )
    by_itself, command = why["moves"]
    assert by_itself.startswith("nothing is to be done: a new day begins at ")
    assert (by_itself[-12:], command) == ("00:00:00 UTC", "gastown config set budget.day AMOUNT")
    assert (await town.ask("GET", "/status"))["spent"] == {"today": 0, "budget": 0}
    await town.ask("PATCH", "/config", {"budgetDay": None})
    assert (await town.ask("GET", f"/beads/{bead}"))["bead"]["status"] == "in_progress"


async def test_what_a_bead_used_is_part_of_the_answers_about_it(town: Town) -> None:
    bead = await town.sling()
    await town.take(facts.ContainerReady())
    author = (await town.ask("GET", f"/beads/{bead}"))["bead"]["agent"]
    tokens = {"input": 9, "output": 3, "cached": 4, "reasoning": 1}
    call = {"callId": "c1", "model": "m", "outcome": "counted", **tokens}
    event = {"agent_id": author, "event_type": "agent.model_call", "attemptId": "a", "data": {**call, "cost": 0.5}}
    token = {"Authorization": f"Bearer {(await town.hall.container_token()).reveal()}"}
    for _ in range(2):
        sent = await town.client.post("/api/towns/oak/rigs/r1/agent-events", json=event, headers=token)
        assert sent.status_code == 200
    found = await town.ask("GET", f"/beads/{bead}")
    used = {**tokens, "calls": 1, "unpriced": 0, "cost": 0.5, "source": "gateway"}
    assert found["usage"] == used
    assert (found["bead"]["cost"], [one["cost"] for one in found["attempts"]]) == (0.5, [0.5])
    status = await town.ask("GET", "/status")
    assert (status["spent"]["today"], status["usage"]) == (0.5, {"today": used, "total": used})


async def test_a_bead_over_its_own_budget_needs_a_person(town: Town) -> None:
    bead = await town.sling()
    spent = Budget(bead=OverBudget(reason="its budget of $0.25 is used up"), beads=(bead,))
    await town.take(facts.BudgetChanged(budget=spent), facts.ContainerReady())
    (needs,) = (await town.ask("GET", "/status"))["needsYou"]
    assert (needs["bead"], needs["question"]) == (
        bead,
        "its budget of $0.25 is used up: raise budget.bead, or close the bead",
    )
    why = await town.ask("GET", f"/beads/{bead}/why")
    assert (why["waiting"]["for"], why["moves"]) == ("budget", ["gastown config set budget.bead AMOUNT"])
