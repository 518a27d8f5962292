"""Running one of these commands: what it asks, what it prints, its exit code."""

from __future__ import annotations

import fcntl
import json
import os
import re
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from gastown.hall.cli.arguments import town_folder
from gastown.hall.cli.commands import texts
from gastown.hall.cli.commands.arguments import SETTINGS, name_of
from gastown.hall.cli.commands.client import (
    NEEDS_A_PERSON,
    NOT_THERE,
    WRONG_CALL,
    CommandFailed,
    NotUp,
    TownClient,
    find_town,
)
from gastown.hall.cli.commands.logs import logs
from gastown.hall.cli.commands.tables import plain
from gastown.hall.places import is_address

__all__ = ["run"]

Text = Callable[[Any, int | None], Iterable[str]]


def run(options: Namespace, env: Mapping[str, str]) -> int:
    """Run the command of `options`; the exit code. What went wrong is one line on stderr."""
    command = _COMMANDS[options.command, getattr(options, "action", None)]
    folder = town_folder(options, env)
    try:
        try:
            return command(find_town(options.town, folder), options)
        except NotUp:
            if options.command not in _AT_REST:
                raise
        from gastown.hall.cli.commands.at_rest import run_at_rest  # noqa: PLC0415 - a whole hall, for these alone

        return run_at_rest(command, options, folder)
    except BrokenPipeError:
        raise
    except CommandFailed as failed:
        complain(_complaint(options, failed))
        return failed.code


def _complaint(options: Namespace, failed: CommandFailed) -> str:
    if options.json:
        return json.dumps({"error": str(failed)} | ({"action": failed.action} if failed.action else {}))
    sentence = f"{failed}; {failed.action}" if failed.action else str(failed)
    return f"{name_of(options)}: {' '.join(sentence.split())}"


def complain(text: str) -> None:
    """Write a line to stderr, where anybody reads it. The log's way to it would take longer than the command."""
    with suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def say(options: Namespace, found: Any, text: Text) -> int:
    """Print what the hall answered, as JSON or for a person; the exit code 0."""
    if options.json:
        lines: Iterable[str] = [json.dumps(found, indent=2)]
    else:
        lines = text(found, _width())
    out = sys.stdout
    if out is not None:
        encoding = getattr(out, "encoding", None) or "utf-8"
        whole = "".join(f"{line}\n" for line in lines)
        with suppress(BrokenPipeError):  # whoever read it has enough
            out.write(whole.encode(encoding, "replace").decode(encoding))
    return 0


def _width() -> int | None:
    """The columns of the terminal; None where the output is none, and nothing is cut."""
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns if sys.stdout.isatty() else None
    except (AttributeError, OSError, ValueError):
        return None


def _status(town: TownClient, options: Namespace) -> int:
    return say(options, town.ask("GET", "status"), texts.status)


def _beads(town: TownClient, options: Namespace) -> int:
    return say(options, town.ask("GET", "beads", rig=options.rig, status=options.status), texts.beads)


def _bead(town: TownClient, options: Namespace) -> int:
    return say(options, town.ask("GET", "beads", options.bead), texts.detail)


def _set_bead(town: TownClient, options: Namespace) -> int:
    key, values = options.key, options.values
    if key != "depends-on" and len(values) != 1:
        raise CommandFailed(f"{key} needs one value", code=WRONG_CALL)
    body = {"dependsOn": values} if key == "depends-on" else {key: values[0]}
    return _decided(options, town.ask("PATCH", "beads", options.bead, body=body))


def _why(town: TownClient, options: Namespace) -> int:
    found = town.ask("GET", "beads", options.bead, "why")
    say(options, found, texts.why)
    waiting = found["waiting"]
    return NEEDS_A_PERSON if waiting is not None and waiting["for"] == "person" else 0


def _sling(town: TownClient, options: Namespace) -> int:
    body = {"rig": options.rig, "title": options.title, "priority": options.priority}
    more = {"body": options.body, "dependsOn": options.depends_on}
    given = body | {name: value for name, value in more.items() if value}
    return _decided(options, town.ask("POST", "beads", body=given))


def _reviews(town: TownClient, options: Namespace) -> int:
    return say(options, town.ask("GET", "reviews"), texts.reviews)


def _review(town: TownClient, options: Namespace) -> int:
    return say(options, town.ask("GET", "beads", options.bead, "review"), texts.review)


def _approve(town: TownClient, options: Namespace) -> int:
    """Of one commit: the one that is named, or that was seen last. What is pushed later is not meant."""
    head = options.head
    if head is None:
        bead = town.ask("GET", "beads", options.bead)["bead"]
        head = bead["head"] or town.ask("GET", "beads", bead["id"], "review")["head"]
    if head is None:
        action = f"gastown review approve {options.bead} --head COMMIT approves that one"
        raise CommandFailed("the commit of its branch is not known yet", action)
    approved = town.ask("POST", "beads", options.bead, "approve", body={"head": head})
    if not options.json:
        say(options, head, lambda commit, _width: [f"commit {commit} is approved"])
    return _decided(options, approved)


def _decide(verb: str) -> Callable[[TownClient, Namespace], int]:
    def decide(town: TownClient, options: Namespace) -> int:
        names = ("head", "message", "failed")
        body = {name: getattr(options, name) for name in names if getattr(options, name, None)}
        return _decided(options, town.ask("POST", "beads", options.bead, verb, body=body))

    return decide


def _stop(town: TownClient, options: Namespace) -> int:
    """A bead, or else an agent of that id."""
    try:
        stopped = town.ask("POST", "beads", options.id, "stop")
    except CommandFailed as failed:
        if failed.code != NOT_THERE:
            raise
        try:
            stopped = town.ask("POST", "agents", options.id, "stop")
        except CommandFailed as unknown:
            if unknown.code != NOT_THERE:
                raise
            raise CommandFailed(
                f"There is no bead {options.id}, and no agent of that id is at work",
                "gastown status lists the agents",
                NOT_THERE,
            ) from None
    return _decided(options, stopped)


def _decided(options: Namespace, bead: Any) -> int:
    """A bead after a decision about it."""

    def text(found: Mapping[str, Any], _width: int | None) -> Sequence[str]:
        waiting = found["waiting"]
        waits = f", and waits for {waiting['for']}: {plain(waiting['reason'])}" if waiting else ""
        return [f"{found['id']} is {found['status']}{waits}"]

    return say(options, bead, text)


def _pause(town: TownClient, options: Namespace) -> int:
    return say(options, town.ask("POST", options.command), texts.config)


def _config(town: TownClient, options: Namespace) -> int:
    return say(options, town.ask("GET", "config"), texts.config)


def _set_config(town: TownClient, options: Namespace) -> int:
    name = SETTINGS[options.key]
    reads = {"slots": _number, "model": _word, "models": _word, "timeZone": _word}.get(name, _amount)
    value = reads(options.key, options.value)
    body = {name: {options.key.partition(".")[2]: value} if name == "models" else value}
    return say(options, town.ask("PATCH", "config", body=body), texts.config)


def _rigs(town: TownClient, options: Namespace) -> int:
    return say(options, town.ask("GET", "rigs"), texts.rigs)


def _add_rig(town: TownClient, options: Namespace) -> int:
    place = options.place
    if not is_address(place):
        place = str(Path(place.removeprefix("file://")).expanduser().absolute())
    named = {name: value for name in ("id", "branch") if (value := getattr(options, name)) is not None}
    added = town.ask("POST", "rigs", body={"place": place, **named, **_rig_settings(options)})
    return say(options, added, lambda found, width: texts.rigs([found], width))


def _set_rig(town: TownClient, options: Namespace) -> int:
    body = _rig_settings(options)
    if options.no_checks:
        body["checks"] = []
    changed = town.ask("PATCH", "rigs", options.rig, body=body)
    return say(options, changed, lambda found, width: texts.rigs([found], width))


def _remove_rig(town: TownClient, options: Namespace) -> int:
    return say(options, town.ask("DELETE", "rigs", options.rig), texts.rig_removed)


def _rig_settings(options: Namespace) -> dict[str, Any]:
    given = {name: getattr(options, name) for name in ("merge", "review", "checks")}
    body: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if options.slots is not None:
        body["slots"] = _number("--slots", options.slots)
    return body


def _number(name: str, text: str) -> int | None:
    """A number of the command line, or the usual one for `default`."""
    if text == "default":
        return None
    if not text.isdecimal():
        raise CommandFailed(f"{name} must be a number, or `default`", code=WRONG_CALL)
    return int(text)


def _word(_name: str, text: str) -> str | None:
    return None if text == "default" else text


def _amount(name: str, text: str) -> float | None:
    """An amount in USD, or no budget for `default`."""
    if text == "default":
        return None
    if not re.fullmatch(r"[0-9]{1,7}(\.[0-9]{1,6})?", amount := text.removeprefix("$")):
        raise CommandFailed(f"{name} must be an amount in USD such as 5 or 2.50, or `default`", code=WRONG_CALL)
    return float(amount)


def _mayor(town: TownClient, options: Namespace) -> int:
    from gastown.hall.cli.commands.mayor import tell  # noqa: PLC0415 - trio and a client, for this one alone

    return tell(town, options)


def _down(town: TownClient, options: Namespace) -> int:
    """Ask for the end, and wait for the kernel to release the town's directory, however its hall ends."""
    with (town.folder / "hall.lock").open("rb") as lock:
        before = town.ask("POST", "end")
        if not options.json:
            complain(f"{name_of(options)}: the town drains")
        fcntl.flock(lock, fcntl.LOCK_SH)
    return say(options, before, lambda _found, _width: ["the town is down"])


_AT_REST = ("rig", "config")
"""What is about a town's settings may be asked of one that is not up, too."""

_COMMANDS: Mapping[tuple[str, str | None], Callable[[TownClient, Namespace], int]] = {
    ("status", None): _status,
    ("mayor", None): _mayor,
    ("beads", None): _beads,
    ("bead", "show"): _bead,
    ("bead", "set"): _set_bead,
    ("why", None): _why,
    ("sling", None): _sling,
    ("review", "list"): _reviews,
    ("review", "show"): _review,
    ("review", "approve"): _approve,
    ("review", "reject"): _decide("reject"),
    ("retry", None): _decide("retry"),
    ("revert", None): _decide("revert"),
    ("close", None): _decide("close"),
    ("stop", None): _stop,
    ("pause", None): _pause,
    ("resume", None): _pause,
    ("rig", "list"): _rigs,
    ("rig", "add"): _add_rig,
    ("rig", "set"): _set_rig,
    ("rig", "remove"): _remove_rig,
    ("config", "get"): _config,
    ("config", "set"): _set_config,
    ("logs", None): logs,
    ("down", None): _down,
}
