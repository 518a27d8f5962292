"""The arguments of `gastown up` and `gastown hall`: what each may be, and the sentence that refuses it."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Mapping
from pathlib import Path

from gastown.contract.git import Remote, is_branch_name
from gastown.contract.identifiers import is_identifier
from gastown.hall.domain.town import RigRecord
from gastown.hall.folders import NoFolder, find_folder

__all__ = ["a_town", "add_arguments", "add_hall_arguments", "some_text", "town_folder"]

_EXAMPLE = "site=https://code.example/you/site.git"


def add_arguments(parser: ArgumentParser) -> None:
    """The arguments of `gastown up`."""
    _add_common(parser)
    parser.add_argument(
        "--message",
        type=some_text,
        help="what to say to the mayor first (default: a greeting, in a new town or for the first answer)",
    )
    parser.add_argument("--port", type=_port, default=8080, help="control API's port; 0: any (default 8080)")
    parser.add_argument(
        "--exit-after-first-answer",
        action="store_true",
        help="end the town when the first answer is there, or cannot come; the exit code says whether it was one",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the bars and figures there")


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
    state = Path(env.get("XDG_STATE_HOME") or Path(env.get("HOME") or "/") / ".local" / "state")
    folder: Path = options.dir or state / "gastown" / options.town
    return folder.absolute()


def a_town(text: str) -> str:
    if not is_identifier(text):
        raise ArgumentTypeError("letters, digits and . _ : @ - only")
    return text


def _rig(text: str) -> RigRecord:
    """A repository of the town. No sentence repeats an address, which may hold a login."""
    rig_id, equals, place = text.partition("=")
    if not equals or "/" in rig_id:
        if _is_address(text):
            raise ArgumentTypeError(f"an address needs an ID, as in {_EXAMPLE}")
        return _folder(None, text)
    if not is_identifier(rig_id):
        raise ArgumentTypeError("ID=PLACE: the ID has letters, digits and . _ : @ - only")
    if not _is_address(place):
        return _folder(rig_id, place)
    url, _, branch = place.partition("#")
    branch = branch or "main"
    try:
        Remote.parse(url)
    except ValueError as error:
        raise ArgumentTypeError(f"the URL of {rig_id} {error}") from None
    if not is_branch_name(branch):
        raise ArgumentTypeError(f"the branch of {rig_id} is not a name that git takes for a branch")
    return RigRecord(rig_id=rig_id, git_url=url, default_branch=branch)


def _is_address(place: str) -> bool:
    """Whether a place is elsewhere: `SCHEME://…`, or `HOST:PATH` as git has it. Everything else is a folder."""
    return not place.startswith("file:") and ("://" in place or ":" in place.partition("/")[0])


def _folder(rig_id: str | None, text: str) -> RigRecord:
    text = text.removeprefix("file://")
    place, _, branch = (text, "", "") if Path(text).is_dir() else text.rpartition("#")
    place = place or text
    try:
        found = find_folder(place, branch if place != text else None)
    except NoFolder as error:
        raise ArgumentTypeError(f"{place} {error}. A rig is a folder, or an address as in {_EXAMPLE}") from None
    name = rig_id or found.name
    if not is_identifier(name):
        raise ArgumentTypeError(f"{found.place} needs an ID, as in --rig ID={place}: its name cannot be one")
    return RigRecord(rig_id=name, git_url="", default_branch=found.branch, folder=found.place)


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
