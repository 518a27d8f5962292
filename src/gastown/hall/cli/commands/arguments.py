"""The arguments of the commands that ask a running town."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gastown.contract.agents import Role
from gastown.hall.cli.arguments import a_town, some_text
from gastown.hall.domain.bead import BeadState

__all__ = ["SETTINGS", "add_town_commands", "name_of", "spelled_out"]

_MOST_EVENTS = 10_000
SETTINGS: Mapping[str, str] = {
    "slots": "slots",
    "model": "model",
    **{f"model.{role}": "models" for role in Role},
    "budget.day": "budgetDay",
    "budget.bead": "budgetBead",
    "time-zone": "timeZone",
}
"""What a person may set, as it is written, and its key in the user API."""
_Parsers = Any
"""What `add_subparsers` returns: its class has no public name."""
_PRIORITIES = ("low", "medium", "high", "critical")
_DEFAULTS: Mapping[str, tuple[str, frozenset[str]]] = {
    "bead": ("show", frozenset({"show", "set", "-h", "--help"})),
    "review": ("list", frozenset({"list", "show", "approve", "reject", "-h", "--help"})),
    "rig": ("list", frozenset({"list", "add", "set", "remove", "-h", "--help"})),
    "config": ("get", frozenset({"get", "set", "-h", "--help"})),
}


def spelled_out(given: Sequence[str]) -> list[str]:
    """The arguments with what may be left out: `bead ID` is `bead show ID`, `review` is `review list`."""
    if not given or given[0] not in _DEFAULTS:
        return list(given)
    usual, known = _DEFAULTS[given[0]]
    return list(given) if given[1:2] and given[1] in known else [given[0], usual, *given[1:]]


def add_town_commands(commands: _Parsers) -> None:
    """Every command that asks a running town."""
    _add(commands, "status", "say how a town is: its container, its agents, what waits for you")
    told = _add(commands, "mayor", "tell the mayor something, and print the answer as it comes")
    told.add_argument("text", type=some_text, metavar="TEXT", help="what to tell the mayor")
    listed = _add(commands, "beads", "list the work and why it waits")
    listed.add_argument("--rig", help="only the work of this rig")
    listed.add_argument("--status", choices=[*BeadState], help="only the work in this state")
    _add_bead(commands)
    _bead_argument(_add(commands, "why", "say why a bead does not go on, and what would move it"))
    slung = _add(commands, "sling", "put work on the board, without a turn of the mayor")
    slung.add_argument("rig", metavar="RIG", help="the repository that the work is about")
    slung.add_argument("title", type=some_text, metavar="TITLE", help="the work in one line")
    slung.add_argument("--body", type=some_text, metavar="TEXT", help="what more there is to say about it")
    slung.add_argument(
        "--priority", choices=_PRIORITIES, default="medium", help="how urgent it is (default medium)"
    )
    _depends_on(slung, "a bead that must be closed before; may be repeated")
    _add_review(commands)
    _bead_argument(_add(commands, "retry", "let a bead go on that waits for you, or begin a finished one again"))
    _bead_argument(_add(commands, "revert", "put work on the board that takes back what a merged bead brought"))
    closed = _add(commands, "close", "end a bead without a merge; its branch stays")
    _bead_argument(closed)
    closed.add_argument("--failed", action="store_true", help="it was not done: what waits for it goes on waiting")
    stopped = _add(commands, "stop", "end what an agent does; its bead waits until you retry or close it")
    stopped.add_argument("id", metavar="BEAD|AGENT", help="a bead, or the id of an agent")
    _add(commands, "pause", "let nothing new begin; turns that run go on")
    _add(commands, "resume", "let work begin again")
    _add_rig(commands)
    _add_config(commands)
    logs = _add(commands, "logs", "print what has happened in a town, or what one of its agents has done")
    logs.add_argument("agent", nargs="?", metavar="AGENT", help="an agent's id or name, or `mayor`")
    logs.add_argument("-f", "--follow", action="store_true", help="go on with what happens, until Ctrl-C")
    before = "how many of the events before are read, up to 10000 (default 200)"
    logs.add_argument("--last", type=_a_number, default=200, metavar="N", help=before)
    _add(commands, "down", "end a town in order, and wait until it is down")


def _add_bead(commands: _Parsers) -> None:
    inner = _group(commands, "bead", "show a bead with its history, or change it")
    _bead_argument(_add(inner, "show", "show how a bead stands, and its history; `show` may be left out"))
    changed = _add(inner, "set", "change what a bead says, how urgent it is, or what it waits for")
    _bead_argument(changed)
    told = "title, priority or depends-on"
    changed.add_argument("key", choices=("title", "priority", "depends-on"), metavar="KEY", help=told)
    told = "the new title or priority; the beads that must be closed before, or none of them"
    changed.add_argument("values", nargs="*", metavar="VALUE", help=told)


def _add_review(commands: _Parsers) -> None:
    inner = _group(commands, "review", "list what is handed in, and decide about it")
    _add(inner, "list", "list what is handed in and not merged yet; `list` may be left out")
    _bead_argument(_add(inner, "show", "show what is handed in, and how to look at it"))
    approved = _add(inner, "approve", "agree to the merge of a bead's work")
    _bead_argument(approved)
    approved.add_argument("--head", metavar="COMMIT", help="only while the branch is at this commit")
    rejected = _add(inner, "reject", "send a bead's work back to its author")
    _bead_argument(rejected)
    rejected.add_argument("--message", type=some_text, required=True, metavar="TEXT", help="what to change")


def _add_rig(commands: _Parsers) -> None:
    inner = _group(commands, "rig", "list a town's repositories, add or remove one, or change how work is merged")
    _add(inner, "list", "list the repositories and how their work is reviewed and merged; `list` may be left out")
    added = _add(inner, "add", "add a repository to a town, whether it is up or not")
    told = "a folder of this machine, as in `.`, or an address; with #BRANCH, where it is not the usual one"
    added.add_argument("place", type=some_text, metavar="PLACE", help=told)
    added.add_argument("--id", type=a_town, help="its id (default: the last part of the place)")
    told = "the branch that work is merged into (default: the one that is checked out; of an address main)"
    added.add_argument("--branch", type=some_text, metavar="B", help=told)
    _rig_settings(added)
    changed = _add(inner, "set", "change how a repository's work is reviewed and merged, which holds at once")
    changed.add_argument("rig", metavar="RIG", help="the repository's id")
    _rig_settings(changed)
    changed.add_argument("--no-checks", action="store_true", help="merge without checks")
    removed = _add(inner, "remove", "take a repository from a town; nothing that was made for it is deleted")
    removed.add_argument("rig", metavar="RIG", help="the repository's id")


def _rig_settings(parser: ArgumentParser) -> None:
    parser.add_argument("--merge", choices=("ask", "auto"), help="ask you first, or merge as soon as it may")
    parser.add_argument("--review", choices=("none", "refinery"), help="whether another agent reads it first")
    told = "a command that the merge result must pass; may be repeated, and takes the place of those before"
    parser.add_argument("--check", action="append", dest="checks", type=some_text, metavar="CMD", help=told)
    parser.add_argument("--slots", metavar="N", help="how many of its agents work at once; `default` for no bound")


def _add_config(commands: _Parsers) -> None:
    inner = _group(commands, "config", "show or change the settings of a town that is up")
    _add(inner, "get", "show the settings; `get` may be left out")
    changed = _add(inner, "set", "change a setting, which holds at once")
    told = "slots: how many agents work at once; model: the language model, and model.ROLE that of a role (mayor,"
    told += (
        " polecat, refinery, triage), from the next turn on; budget.day and budget.bead: how many USD a day and a"
    )
    told += " bead may cost before nothing begins; time-zone: whose days they are"
    changed.add_argument("key", choices=tuple(SETTINGS), metavar="KEY", help=told)
    changed.add_argument("value", metavar="VALUE", help="the value; `default` for the usual one, or for no budget")


def _group(commands: _Parsers, name: str, told: str) -> _Parsers:
    parser = commands.add_parser(name, help=told, description=f"{told[:1].upper()}{told[1:]}.")
    return parser.add_subparsers(dest="action", required=True, metavar="ACTION")


def _add(commands: _Parsers, name: str, told: str) -> ArgumentParser:
    parser: ArgumentParser = commands.add_parser(name, help=told, description=f"{told[:1].upper()}{told[1:]}.")
    parser.add_argument("--town", type=a_town, default="town", help="the town's name (default: town)")
    parser.add_argument("--dir", type=Path, help="the town's data, where it is not in its usual place")
    parser.add_argument("--json", action="store_true", help="print JSON; an error is {error, action?} on stderr")
    return parser


def _bead_argument(parser: ArgumentParser) -> None:
    parser.add_argument("bead", metavar="BEAD", help="the bead's id, or the beginning of it")


def _depends_on(parser: ArgumentParser, told: str) -> None:
    parser.add_argument("--depends-on", action="append", default=[], metavar="BEAD", help=told)


def _a_number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= _MOST_EVENTS):
        raise ArgumentTypeError(f"must be a number up to {_MOST_EVENTS}")
    return int(text)


def name_of(options: Namespace) -> str:
    """The command as it is written, for what is said of it."""
    action = getattr(options, "action", None)
    return f"gastown {options.command}" + (f" {action}" if action else "")
