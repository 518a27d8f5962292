"""What an author, a person or the mayor is told, in plain sentences."""

from __future__ import annotations

from collections.abc import Sequence

from gastown.hall.reconcile.limits import LIMITS, Cause

__all__ = [
    "asked",
    "checks_failed",
    "conflict",
    "go_on",
    "merged",
    "nothing_to_merge",
    "question",
    "wants_changes",
]

_MOST_FILES = 50
_HAPPENED = {
    Cause.START: "its agent could not be started",
    Cause.UNFINISHED: "its agent ended without handing it in",
    Cause.REVIEW: "the review asked for changes",
    Cause.CONFLICT: "it conflicted with the target",
    Cause.CHECKS: "its checks failed",
    Cause.LOST: "its container was lost while the agent worked",
    Cause.MERGE: "it could not be merged",
}


def conflict(branch: str, target: str, files: Sequence[str]) -> str:
    """To the author, about a merge that conflicts."""
    named = "\n".join(f"- {name}" for name in files[:_MOST_FILES]) or "- (git named no file)"
    more = f"\n- and {len(files) - _MOST_FILES} more" if len(files) > _MOST_FILES else ""
    return (
        f"Your branch {branch} cannot be merged: it conflicts with {target} in these files:\n{named}{more}\n"
        f"Bring the newest origin/{target} into your branch, resolve the conflicts so that both changes hold, "
        "commit, push the branch, and call gt_done again."
    )


def checks_failed(branch: str, target: str, reason: str) -> str:
    """To the author, about a merge whose result does not pass."""
    return (
        f"Your branch {branch}, merged into the newest {target}, does not pass the checks:\n\n{reason}\n\n"
        "Mend that on your branch, commit, push it, and call gt_done again."
    )


def wants_changes(branch: str, feedback: str) -> str:
    """To the author, from a reviewer or a person."""
    return (
        f"Your work on {branch} was reviewed, and changes are asked for:\n\n{feedback}\n\n"
        "Make them on your branch, commit, push it, and call gt_done again."
    )


def go_on(cause: Cause) -> str:
    """To an author that is started again on the same work."""
    if cause is Cause.UNFINISHED:
        return (
            "Your last turn ended and you had not called gt_done. Look at what is on your branch, finish the "
            "task, commit, push, and call gt_done; if you cannot finish it, call gt_escalate and say why."
        )
    return "You were interrupted. Look at what is on your branch, and go on with the task from there."


def question(cause: Cause, tries: int, reason: str) -> str:
    """To a person, once a limit is reached."""
    often = f"{tries} times" if tries > 1 else "once"
    ask = "close it, or retry it" if cause in (Cause.REVIEW, Cause.UNFINISHED) else "retry it once that is mended"
    what = _HAPPENED[cause] + (" in a row" if cause is Cause.START else "")
    return f"{what.capitalize()} {often} (the limit is {LIMITS[cause]}). The last time: {reason} — {ask}."


def look_first(reason: str) -> str:
    """To a person, where trying again does not help by itself."""
    return f"{reason} — retry it once that is done."


def asked(title: str, why: str) -> str:
    """To the mayor: a person is needed."""
    return f"“{title}” waits for a person: {why}"


def nothing_to_merge(title: str, bead_id: str, target: str, _commit: str | None) -> str:
    """To the mayor: work has ended without a change."""
    return f"“{title}” ({bead_id}) is closed with nothing to merge: its branch has nothing that {target} lacks."


def merged(title: str, bead_id: str, target: str, commit: str | None) -> str:
    """To the mayor: work has landed."""
    at = f" as {commit[:12]}" if commit else ""
    return f"“{title}” ({bead_id}) is merged into {target}{at}."
