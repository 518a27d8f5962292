"""Where a repository of a town is, as a person writes it: a folder of this machine, or an address."""

from __future__ import annotations

from pathlib import Path

from gastown.contract.git import Remote, is_branch_name
from gastown.contract.identifiers import is_identifier
from gastown.hall.domain.town import RigRecord
from gastown.hall.folders import NoFolder, find_folder

__all__ = ["EXAMPLE", "NoPlace", "is_address", "rig_at"]

EXAMPLE = "site=https://code.example/you/site.git"


class NoPlace(ValueError):
    """No repository can be there. One sentence, which repeats no address: that may hold a login."""


def is_address(place: str) -> bool:
    """Whether a place is elsewhere: `SCHEME://…`, or `HOST:PATH` as git has it. Everything else is a folder."""
    return not place.startswith("file:") and ("://" in place or ":" in place.partition("/")[0])


def rig_at(text: str, *, rig_id: str | None = None, branch: str | None = None) -> RigRecord:
    """The repository at `PLACE` or `PLACE#BRANCH`; NoPlace. Blocks while git looks at a folder.

    Its id is the last part of the place where none is given. Its branch is then the one that is checked out in a
    folder, and `main` of an address.
    """
    if rig_id is not None and not is_identifier(rig_id):
        raise NoPlace("ID=PLACE: the ID has letters, digits and . _ : @ - only")
    return _address(text, rig_id, branch) if is_address(text) else _folder(text, rig_id, branch)


def _address(text: str, rig_id: str | None, branch: str | None) -> RigRecord:
    url, _, named = text.partition("#")
    branch = branch or named or "main"
    try:
        remote = Remote.parse(url)
    except ValueError as error:
        raise NoPlace(f"the URL of {rig_id or 'the repository'} {error}") from None
    name = rig_id or remote.path.rstrip("/").rpartition("/")[2].removesuffix(".git")
    if not is_identifier(name):
        raise NoPlace(f"an address needs an ID, as in {EXAMPLE}")
    if not is_branch_name(branch):
        raise NoPlace(f"the branch of {name} is not a name that git takes for a branch")
    return RigRecord(rig_id=name, git_url=url, default_branch=branch)


def _folder(text: str, rig_id: str | None, branch: str | None) -> RigRecord:
    text = text.removeprefix("file://")
    place, _, named = (text, "", "") if Path(text).is_dir() else text.rpartition("#")
    place = place or text
    wanted = branch if branch is not None else (named if place != text else None)
    try:
        found = find_folder(place, wanted)
    except NoFolder as error:
        raise NoPlace(f"{place} {error}. A rig is a folder, or an address as in {EXAMPLE}") from None
    name = rig_id or found.name
    if not is_identifier(name):
        raise NoPlace(f"{found.place} needs an ID, as in --rig ID={place}: its name cannot be one")
    return RigRecord(rig_id=name, git_url="", default_branch=found.branch, folder=found.place)
