"""The arguments of `gastown up` and `gastown hall`: what each may be, and the sentence that refuses it."""

from __future__ import annotations

import shlex
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Mapping
from pathlib import Path

from gastown.contract.identifiers import is_identifier
from gastown.hall.domain.town import RigRecord
from gastown.hall.places import EXAMPLE, NoPlace, is_address, rig_at

__all__ = [
    "a_town",
    "add_arguments",
    "add_hall_arguments",
    "how_to_find",
    "some_text",
    "town_folder",
    "usual_folder",
]


def add_arguments(parser: ArgumentParser) -> None:
    """The arguments of `gastown up`."""
    _add_common(parser)
    parser.add_argument(
        "--message",
        type=some_text,
        help="what to say to the mayor first (default: a greeting, in a new town or for the first answer)",
    )
    parser.add_argument("--port", type=_port, default=8080, help="control API's port; 0: any (default 8080)")
    ends = parser.add_mutually_exclusive_group()
    ends.add_argument(
        "--exit-after-first-answer",
        action="store_true",
        help="end the town when the first answer is there, or cannot come; the exit code says whether it was one",
    )
    ends.add_argument(
        "--detach",
        action="store_true",
        help="let the town run on in the background, and return once it is up; `gastown down` ends it",
    )
    parser.add_argument("--tell-when-up", type=int, help=SUPPRESS)  # a descriptor of the process that detaches us
    told = "write the bars and figures of the start there"
    parser.add_argument("--report", "--json", type=Path, metavar="FILE", help=told)


def add_hall_arguments(parser: ArgumentParser) -> None:
    """The arguments of `gastown hall`."""
    _add_common(parser)
    parser.add_argument("--port", type=_port, default=0, help="the hall's port; 0: any (default 0)")


def _add_common(parser: ArgumentParser) -> None:
    parser.add_argument("--town", type=a_town, default="town", help="the town's name (default: town)")
    parser.add_argument(
        "--dir",
        type=Path,
        help="the town's data (default $XDG_STATE_HOME/gastown/<town>, or ~/.local/state/gastown/<town>)",
    )
    parser.add_argument("--model", help="the town's default model, from now on")
    parser.add_argument(
        "--rig",
        type=_rig,
        action="append",
        default=[],
        dest="rigs",
        metavar="[ID=]PLACE[#BRANCH]",
        help="a repository of the town, from now on: a folder of this machine, as in --rig . (if not told"
        " otherwise, its ID is its name, and its branch the one that is checked out), or an address with an ID, as"
        " in site=https://code.example/you/site.git (branch: main); may be repeated",
    )
    parser.add_argument(
        "--turn-seconds",
        type=_seconds,
        default=0.0,
        help="how long the stand-in of the language model takes over an answer (default 0)",
    )
    parser.add_argument(
        "--script",
        type=Path,
        metavar="FILE",
        help="what the stand-in of the language model says and does: a script, for a town without a token",
    )


def town_folder(options: Namespace, env: Mapping[str, str]) -> Path:
    """Where a town's data is: `--dir`, or its usual place."""
    given: Path | None = options.dir
    return usual_folder(options.town, env) if given is None else given.absolute()


def how_to_find(town: str, folder: Path, env: Mapping[str, str]) -> str:
    """What a command needs to find the town, as it is written after the command's name."""
    name = "" if town == "town" else f" --town {town}"
    return name if usual_folder(town, env) == folder else f"{name} --dir {shlex.quote(str(folder))}"


def usual_folder(town: str, env: Mapping[str, str]) -> Path:
    """Where the data of a town of that name is, where nothing else is said."""
    state = Path(env.get("XDG_STATE_HOME") or Path(env.get("HOME") or "/") / ".local" / "state")
    return (state / "gastown" / town).absolute()


def a_town(text: str) -> str:
    if not is_identifier(text):
        raise ArgumentTypeError("letters, digits and . _ : @ - only")
    return text


def _rig(text: str) -> RigRecord:
    """A repository of the town. No sentence repeats an address, which may hold a login."""
    rig_id, equals, place = text.partition("=")
    has_id = bool(equals) and "/" not in rig_id
    if not has_id and is_address(text):
        raise ArgumentTypeError(f"an address needs an ID, as in {EXAMPLE}")
    try:
        return rig_at(place, rig_id=rig_id) if has_id else rig_at(text)
    except NoPlace as error:
        raise ArgumentTypeError(str(error)) from None


def some_text(text: str) -> str:
    if not text.strip():
        raise ArgumentTypeError("must not be empty")
    return text


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise ArgumentTypeError("must be a number from 0 to 65535")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 3600:
        raise ArgumentTypeError("must be a number of seconds from 0 to 3600")
    return seconds
