"""A bead's state and a town's facts in plain words. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gastown.hall.domain.bead import Bead
from gastown.hall.reconcile.state import HandInPhase, WaitsFor, Work

__all__ = ["how_it_stands", "moves", "told"]

_MOST = 300


def how_it_stands(bead: Bead, work: Work | None) -> str:
    """One sentence about what happens with a bead now."""
    if work is None:
        return f"it is {bead.status}"
    if work.commit is not None and work.is_finished:
        return f"it is merged as {work.commit[:12]}"
    if work.is_finished:
        return f"it is {work.state}"
    if work.waiting is not None:
        return f"it waits for {_article(work.waiting.what)}: {work.waiting.reason}"
    names = " and ".join(attempt.agent_id for attempt in work.attempts)
    return f"{names or 'nothing'} works on it"


def _article(what: WaitsFor) -> str:
    return {
        WaitsFor.BEAD: "another bead",
        WaitsFor.SLOT: "a slot",
        WaitsFor.PERSON: "a person",
        WaitsFor.BUDGET: "the budget",
        WaitsFor.BACKOFF: "its next try",
        WaitsFor.CONTAINER: "the container",
        WaitsFor.CHECKS: "its checks",
        WaitsFor.MERGE: "its merge",
        WaitsFor.REVIEW: "its review",
        WaitsFor.PAUSED: "the town",
        WaitsFor.STAGED: "its convoy",
    }[what]


def moves(work: Work | None) -> tuple[str, ...]:
    """What would move a bead that waits: commands for a person, or what comes by itself."""
    if work is None or work.waiting is None or work.is_finished:
        return ()
    bead, waiting = work.bead_id, work.waiting
    if waiting.what is WaitsFor.PERSON:
        return _of_a_person(work)
    until = f" at {waiting.until:%Y-%m-%d %H:%M:%S} UTC" if waiting.until is not None else ""
    return {
        WaitsFor.BEAD: (f"gastown why {waiting.bead_id}",),
        WaitsFor.SLOT: ("an agent that ends", "gastown config set slots NUMBER"),
        WaitsFor.BUDGET: (
            (f"nothing is to be done: a new day begins{until}", "gastown config set budget.day AMOUNT")
            if until
            else ("gastown config set budget.bead AMOUNT",)
        ),
        WaitsFor.BACKOFF: (f"nothing is to be done: it is tried again{until}", f"gastown retry {bead}"),
        WaitsFor.CONTAINER: (f"the container{until and ', which is tried again' + until}",),
        WaitsFor.CHECKS: ("the end of its checks",),
        WaitsFor.MERGE: ("the end of the merge",),
        WaitsFor.REVIEW: ("the end of the review",),
        WaitsFor.PAUSED: ("gastown resume",),
        WaitsFor.STAGED: ("the start of its convoy, by the mayor",),
    }[waiting.what]


def _of_a_person(work: Work) -> tuple[str, ...]:
    bead = work.bead_id
    if work.question is not None:
        return (f"gastown retry {bead}", f"gastown close {bead}")
    if work.hand_in is not None and work.hand_in.phase is HandInPhase.ASKING:
        show, approve = f"gastown review show {bead}", f"gastown review approve {bead}"
        return (show, approve, f"gastown review reject {bead} --message TEXT")
    return (f"gastown rig add PLACE --id {work.rig_id}", f"gastown close {bead}")


def told(kind: str, body: Mapping[str, Any]) -> str:
    """A fact as it was kept, in plain words, on one line."""
    teller = _TOLD.get(kind)
    says = kind if teller is None else teller(body)
    line = " ".join(says.split())
    return line if len(line) <= _MOST else line[: _MOST - 1] + "…"


def _attempt(what: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda body: f"{what} ({body.get('attempt_id') or body.get('merge_id')})" + _because(body)


def _because(body: Mapping[str, Any]) -> str:
    return f": {body['reason']}" if body.get("reason") else ""


def _of_budget(budget: Mapping[str, Any]) -> str:
    says = [budget["day"]["reason"]] if budget.get("day") else []
    if budget.get("beads"):
        says.append(f"the budget of {', '.join(budget['beads'])} is used up")
    return "; ".join(says) or "the budget lets work begin again"


_TOLD: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "Added": lambda body: f"“{body['work']['title']}” is on the board",
    "Ordered": lambda body: f"“{body['title']}” was changed, or what it waits for",
    "Assigned": lambda body: f"{body['agent_id']} is its author",
    "Reset": lambda body: f"{body['agent_id']} was reset",
    "Removed": lambda _: "it was deleted",
    "Started": _attempt("an agent works"),
    "StartFailed": _attempt("an agent could not be started"),
    "AgentEnded": lambda body: f"{body['agent_id']} ended" + _because(body),
    "AgentStopped": lambda body: f"the server of {body['agent_id']} has ended",
    "TurnBegan": lambda body: f"a turn of {body['agent_id']} began",
    "TurnEnded": lambda body: f"the turn of {body['agent_id']} ended" + _because(body),
    "HandedIn": lambda body: f"{body['agent_id']} handed it in",
    "HeadSeen": lambda body: f"what is handed in is {body['head'][:12]}",
    "ReviewPassed": lambda body: f"{body['agent_id']} agrees to it",
    "ChangesAsked": lambda body: f"{body['agent_id']} asks for changes: {body['feedback']}",
    "Approved": lambda body: "a person approved it" + (f" at {body['head'][:12]}" if body.get("head") else ""),
    "Rejected": lambda body: f"a person asks for changes: {body['message']}",
    "Merged": lambda body: "it is merged" + (f" as {body['commit'][:12]}" if body.get("commit") else ""),
    "MergeConflicted": lambda body: f"it conflicts in {', '.join(body['files']) or 'some file'}",
    "MergeFailed": _attempt("it was not merged"),
    "MergeMoved": _attempt("its branch went on, or its target, before it was merged"),
    "Retried": lambda _: "a person lets it go on",
    "Held": lambda _: "a person stopped it",
    "Closed": lambda body: "it was closed without a merge" + (", as failed" if body.get("failed") else ""),
    "RulesChanged": lambda _: "the settings were changed",
    "BudgetChanged": lambda body: _of_budget(body["budget"] or {}),
    "ContainerReady": lambda _: "the container takes work",
    "ContainerLost": lambda body: "the container is lost" + _because(body),
}
