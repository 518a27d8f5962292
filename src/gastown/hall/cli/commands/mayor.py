"""`gastown mayor TEXT`: the hall tells the mayor, and the answer is read from the container as it comes."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from datetime import datetime
from functools import partial
from typing import Any

import trio

from gastown.contract.agents import Condition
from gastown.contract.secret import Secret
from gastown.hall.cli.commands.arguments import name_of
from gastown.hall.cli.commands.client import FAILED, CommandFailed, TownClient
from gastown.hall.cli.mayor import MayorLost, Told, follow
from gastown.hall.cli.screen import Screen, open_screen
from gastown.hall.cli.turn import Turn
from gastown.hall.control_client import ControlCallFailed, open_control_client
from gastown.logs import complain

__all__ = ["tell"]


def tell(town: TownClient, options: Namespace) -> int:
    """Tell the mayor, and print what it says; the exit code. CommandFailed when it gives no answer."""
    screen = open_screen(None if options.json else sys.stdout, {})
    try:
        turn = trio.run(partial(_turn, town, options, screen), restrict_keyboard_interrupt_to_checkpoints=True)
    except* (ControlCallFailed, MayorLost) as group:
        raise CommandFailed(str(_first(group))) from None
    finally:
        screen.end_line()
        screen.settle()
    if options.json:
        sys.stdout.write(
            json.dumps({"answer": turn.text, "error": None if turn.answered else turn.problem}) + "\n"
        )
    if not turn.answered:
        raise CommandFailed(f"the mayor gave no answer: {turn.problem}", code=FAILED)
    return 0


async def _turn(town: TownClient, options: Namespace, screen: Screen) -> Turn:
    told = await trio.to_thread.run_sync(partial(town.ask, "POST", "mayor", body={"text": options.text}))
    place, bearer = _container(town)

    def note(condition: Condition) -> None:
        screen.end_line()
        complain(f"{name_of(options)}: the mayor is {condition.type}: {condition.reason or 'no reason given'}")

    async with open_control_client(place, bearer) as control:
        return await follow(control, told["agentId"], _told(told), screen.say, note)


def _container(town: TownClient) -> tuple[str, Secret]:
    """Where the town's container answers, and its bearer."""
    try:
        place = json.loads((town.folder / "control.json").read_text("utf-8"))["url"]
        return str(place), Secret((town.folder / "control.token").read_text("utf-8").strip())
    except (OSError, ValueError, KeyError) as error:
        raise CommandFailed(f"cannot read where the container of {town.folder} is: {error}") from error


def _told(given: Any) -> Told:
    now = trio.current_time()
    return Told(
        by=given["by"],
        session_id=given["sessionId"],
        after=given["after"],
        told_at=datetime.fromisoformat(given["toldAt"]),
        waited_from=now,
        sent_at=now,
        accepted_at=now,
    )


def _first(error: BaseException) -> BaseException:
    return _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error
