"""Asking a town that is not up: its hall is opened for the length of one command, without a container."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import trio

from gastown.hall.cli.commands.client import NOT_THERE, CommandFailed, TownClient
from gastown.hall.hall import HallOptions, open_hall
from gastown.hall.lock import DirectoryUnusable
from gastown.hall.store.database import StoreError, towns_in

__all__ = ["run_at_rest"]


def run_at_rest(command: Callable[[TownClient, Namespace], int], options: Namespace, folder: Path) -> int:
    """Run `command` on the town of `folder`; its exit code. CommandFailed also when the directory is in use."""

    async def served() -> int | CommandFailed:
        town = _town_of(folder, options.town)
        async with open_hall(HallOptions(data_dir=folder, town_id=town, stand_in=False)) as hall:
            client = TownClient(town, folder, hall.url, hall.desk.token.reveal())
            try:
                return await trio.to_thread.run_sync(command, client, options, abandon_on_cancel=True)
            except CommandFailed as failed:
                return failed  # it would come out in a group

    try:
        outcome = trio.run(served, restrict_keyboard_interrupt_to_checkpoints=True)
    except (DirectoryUnusable, StoreError) as error:
        raise CommandFailed(str(error)) from error
    if isinstance(outcome, CommandFailed):
        raise outcome
    return outcome


def _town_of(folder: Path, named: str) -> str:
    """The town in a directory: the one of that name, or the only one, as `--dir` alone finds one that is up."""
    known = towns_in(folder / "hall.db")
    if named in known:
        return named
    if len(known) != 1:
        raise CommandFailed(f"there is no town {named} in {folder}", f"it has {', '.join(known)}", NOT_THERE)
    return known[0]
