"""What the commands print for people. Pure functions of what the hall answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gastown.hall.cli.commands.arguments import SETTINGS
from gastown.hall.cli.commands.tables import ago, plain, short_ids, table

__all__ = ["beads", "config", "detail", "happening", "review", "reviews", "rig_removed", "rigs", "status", "why"]

Shown = Mapping[str, Any]


def status(town: Shown, width: int | None) -> Iterator[str]:
    """A town: its container, its agents, and what waits for a person."""
    container, slots, spent = town["container"], town["slots"], town["spent"]
    because = f": {plain(container['reason'])}" if container.get("reason") else ""
    paused = ", paused: nothing new begins" if town["paused"] else ""
    yield f"town       {town['town']}{paused}"
    yield f"container  {container['state']}{because}"
    yield f"slots      {slots['used']} of {slots['most']}"
    budget = "no budget" if spent["budget"] is None else f"of ${spent['budget']:.2f}"
    yield f"spent      {_dollars(spent['today'])} today, {budget}{_unpriced(town['usage']['today'])}"
    short = short_ids([one["bead"] for one in (*town["agents"], *town["needsYou"]) if one["bead"]])
    yield ""
    rows = [
        (one["name"], one["role"], one["rig"], one["state"], one["condition"], short.get(one["bead"]),
         ago(one["since"]), one["id"])
        for one in town["agents"]
    ]  # fmt: skip
    yield from table(("NAME", "ROLE", "RIG", "STATE", "CONDITION", "BEAD", "SINCE", "ID"), rows, width)
    yield ""
    if not town["needsYou"]:
        yield "nothing waits for you"
        return
    yield "waits for you:"
    needs = [(short[one["bead"]], ago(one["since"]), one["question"]) for one in town["needsYou"]]
    yield from table(("BEAD", "SINCE", "QUESTION"), needs, width)


def beads(found: Sequence[Shown], width: int | None) -> Iterator[str]:
    """A line for each bead."""
    if not found:
        yield "there are no beads"
        return
    short = short_ids(one["id"] for one in found)
    rows = [
        (short[one["id"]], one["rig"], one["status"], one["agentName"], _waits(one), one["title"]) for one in found
    ]
    yield from table(("BEAD", "RIG", "STATUS", "AGENT", "WAITS FOR", "TITLE"), rows, width)


def detail(found: Shown, width: int | None) -> Iterator[str]:
    """A bead and its history."""
    one = found["bead"]
    yield f"{one['id']}  {plain(one['title'])}"
    yield f"status    {one['status']}: {plain(found['why']['says'])}"
    yield from (f"          → {plain(move)}" for move in found["why"]["moves"])
    yield f"rig       {one['rig']}, priority {found['priority']}"
    yield f"agent     {plain(one['agentName'])} ({plain(one['agent'])})"
    yield f"branch    {plain(one['branch'])}" + (f" at {one['head'][:12]}" if one["head"] else "")
    if one["commit"]:
        yield f"commit    {one['commit']}"
    if found["dependsOn"]:
        yield f"waits for {', '.join(found['dependsOn'])}"
    yield f"cost      {_dollars(one['cost'])}{_tokens(found['usage'])}{_unpriced(found['usage'])}"
    if found["body"]:
        yield ""
        yield from ("  " + _kept(line) for line in found["body"].splitlines())
    if found["attempts"]:
        yield ""
        rows = [
            (
                tried["startedAt"],
                tried["agent"],
                tried["cause"],
                tried["outcome"] or tried["phase"],
                tried["reason"],
            )
            for tried in found["attempts"]
        ]
        yield from table(("ATTEMPT", "AGENT", "CAUSE", "OUTCOME", "REASON"), rows, width)
    yield ""
    yield from table(("AT", "WHAT"), [(past["at"], past["says"]) for past in found["history"]], width)


def why(found: Shown, _width: int | None) -> Iterator[str]:
    """How a bead stands, and what would move it."""
    yield f"{found['bead']} is {found['status']}: {plain(found['says'])}"
    yield from (f"→ {plain(move)}" for move in found["moves"])


def reviews(found: Sequence[Shown], width: int | None) -> Iterator[str]:
    """A line for each piece of work that is handed in."""
    if not found:
        yield "nothing is handed in"
        return
    short = short_ids(one["bead"] for one in found)
    rows = [
        (short[one["bead"]], one["rig"], one["phase"], one["agentName"], ago(one["since"]), one["title"])
        for one in found
    ]
    yield from table(("BEAD", "RIG", "PHASE", "AUTHOR", "SINCE", "TITLE"), rows, width)


def review(one: Shown, _width: int | None) -> Iterator[str]:
    """A piece of work that is handed in, and the diff of what it would bring."""
    changes = one["changes"]
    yield f"{one['bead']}  {plain(one['title'])}"
    yield f"phase     {one['phase']}, since {one['since']}"
    yield f"author    {plain(one['agentName'])} ({plain(one['agent'])})"
    yield f"branch    {one['branch']}" + (f" at {one['head']}" if one["head"] else "")
    yield f"target    {plain(one['target'])} of {one['rig']}"
    if one["summary"]:
        yield ""
        yield from ("  " + _kept(line) for line in one["summary"].splitlines())
    yield ""
    elsewhere = f"git fetch origin {one['branch']} && git diff origin/{one['target']}...FETCH_HEAD"
    if changes is None:
        yield f"its changes cannot be seen now: {plain(one['unseen'])}"
        yield f"look at it: {elsewhere}"
        return
    yield from _changed_files(changes)
    yield ""
    yield from (_harmless(line) for line in changes["patch"].removesuffix("\n").split("\n"))
    if changes["patchCut"]:
        yield f"… there is more: {elsewhere}"


def _changed_files(changes: Shown) -> Iterator[str]:
    if not changes["files"]:
        yield "there is nothing to merge"
        return
    rows = [(_count("+", one["added"]), _count("-", one["removed"]), one["path"]) for one in changes["files"]]
    yield from table(("ADDED", "REMOVED", "FILE"), rows, None)
    if changes["filesCut"]:
        yield "… and more files"


def _count(sign: str, lines: int | None) -> str:
    return "no text" if lines is None else f"{sign}{lines}"


def _harmless(line: str) -> str:
    """A line of a diff, with what could steer a terminal or hide in it as an escape."""
    return "".join(c if c.isprintable() or c == "\t" else c.encode("unicode_escape").decode() for c in line)


def rigs(found: Sequence[Shown], width: int | None) -> Iterator[str]:
    """A line for each repository."""
    if not found:
        yield "the town has no repositories: gastown rig add PLACE adds one"
        return
    rows = [
        (one["id"], one["branch"], one["merge"], one["review"], len(one["checks"]), one["slots"], one["place"])
        for one in found
    ]
    yield from table(("RIG", "BRANCH", "MERGE", "REVIEW", "CHECKS", "SLOTS", "PLACE"), rows, width)


def rig_removed(found: Shown, _width: int | None) -> Iterator[str]:
    """A repository that is no more the town's, and what of its work was not merged."""
    yield f"{found['id']} is removed from the town; {plain(found['place'])} stays as it is"
    if found["left"]:
        yield "not merged, and still on its branch there or in the town's directory:"
        yield from table(("BEAD", "BRANCH"), [(one["bead"], one["branch"]) for one in found["left"]], None)


def config(found: Shown, _width: int | None) -> Iterator[str]:
    """A line for each setting."""
    names = {key: name for name, key in SETTINGS.items()}
    for key, value in found.items():
        if key == "models":
            yield from (f"model.{role} = {plain(own)}" for role, own in sorted(value.items()))
        else:
            usual = "(none)" if key.startswith("budget") else "(default)"
            yield f"{names.get(key, key)} = {usual if value is None else plain(value)}"


def happening(one: Shown) -> str:
    """One thing that has happened, on one line."""
    return f"{one['at']}  {one['bead'] or 'town'}  {plain(one['says'])}"


def _waits(one: Shown) -> str | None:
    waiting = one["waiting"]
    if waiting is None:
        return None
    return f"{waiting['for']} {waiting['bead']}" if waiting.get("bead") else str(waiting["for"])


def _dollars(amount: float | None) -> str:
    return "unknown" if amount is None else f"${amount:.2f}"


def _tokens(usage: Shown) -> str:
    if not usage["calls"]:
        return ""
    of_kilo = ", as kilo counts" if usage["source"] == "kilo" else ""
    return f", {usage['input']:,} tokens in and {usage['output']:,} out{of_kilo}"


def _unpriced(usage: Shown) -> str:
    """Which part of an amount is missing."""
    return f" ({usage['unpriced']} calls of unknown cost are not in it)" if usage["unpriced"] else ""


def _kept(line: str) -> str:
    return "".join(c if c.isprintable() else " " for c in line)
