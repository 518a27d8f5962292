"""The demo on the screen: whether a town plays it, what happens in it, and what a person may do next."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import trio

from gastown.hall.cli.boot import Boot, UpFailed, UpOptions
from gastown.hall.cli.commands.tables import short_ids
from gastown.hall.cli.commands.typed import program, typed
from gastown.hall.demo import ASKS_FOR, RIG, SCRIPT, TASKS, WISH
from gastown.hall.demo.repository import NoDemo, make_repository
from gastown.hall.domain.bead import Bead, BeadType
from gastown.hall.domain.town import STAND_IN_TOKEN, RigRecord
from gastown.hall.hall import Hall, HallOptions
from gastown.hall.lock import DirectoryUnusable
from gastown.hall.reconcile.limits import Cause
from gastown.hall.reconcile.state import HandInPhase, TownState
from gastown.hall.store import beads, policies
from gastown.hall.store.town_state import take_rules
from gastown.hall.store.transaction import Transaction

__all__ = ["Scene", "Stage", "begin_demo", "introduce_demo", "is_demos", "show_demo", "with_demo"]

Stage = Literal["begun", "conflict", "asks", "question", "merged", "closed"]
"""Where a task of the demo is. `question`: it does not go on without a person."""

_OVER: tuple[Stage, ...] = ("merged", "closed")


async def with_demo(options: UpOptions) -> UpOptions:
    """The options of a town that plays the demo, or as they are.

    A new town that is told nothing plays it, and one that has its repository goes on; never one with a token or a
    script of its own. Raises `UpFailed`, DirectoryUnusable.
    """
    hall = options.hall
    place = hall.data_dir / RIG
    if hall.kilocode_token not in (None, STAND_IN_TOKEN) or hall.script is not None:
        return options
    if await trio.Path(hall.data_dir / "hall.db").exists():
        is_there = await trio.Path(place).exists()
        return replace(options, hall=replace(hall, script=SCRIPT)) if is_there else options
    if hall.rigs or options.message is not None or options.exit_after_first_answer:
        return options
    try:
        await trio.to_thread.run_sync(make_repository, place)
    except OSError as error:
        raise DirectoryUnusable(f"cannot write to {hall.data_dir}: {error.strerror}") from error
    except NoDemo as problem:
        raise UpFailed(str(problem)) from problem
    rig = RigRecord(rig_id=RIG, git_url="", default_branch="main", folder=str(place))
    return replace(options, hall=replace(hall, script=SCRIPT, rigs=[rig]))


async def begin_demo(hall: Hall, options: UpOptions) -> UpOptions:
    """Let the demo's work begin only where its script plays it: with a token each turn would cost money.

    Nor does a model go on with turns that the script has begun: the agents of the last container are forgotten,
    and their work is not.

    Returned are the options, with the wish for the mayor until she has heard it.
    """
    if not await _is_here(hall, options.hall):
        return options
    is_played = options.hall.script == SCRIPT
    slots = None if is_played else 0
    known = await hall.store.transaction(hall.town_id, lambda board: policies.rig_policy(board, RIG))
    if not is_played and known.slots != slots:
        await hall.store.replace_registry(hall.town_id, [])
    tasks = await hall.store.transaction(hall.town_id, lambda board: _settle(board, slots=slots))
    is_new = not tasks and (await hall.town()).mayor_session_id is None
    return replace(options, message=WISH) if is_played and is_new and options.message is None else options


def is_demos(rig: RigRecord, options: HallOptions) -> bool:
    """Whether a rig is the demo's own."""
    return rig.rig_id == RIG and rig.folder == str(options.data_dir / RIG)


async def introduce_demo(boot: Boot) -> None:
    """Say that a script plays, or why nothing of the demo goes on."""
    options = boot.options
    if not await _is_here(boot.hall, options.hall):
        return
    place = options.hall.data_dir / RIG
    if options.hall.script == SCRIPT:
        boot.screen.line(f"demo     a script plays all agents, and costs nothing; the repository is {place}")
    elif not boot.hall.stand_in:
        boot.screen.line(f"demo     not played with a model: what is left of it waits; its repository is {place}")


async def show_demo(boot: Boot) -> None:
    """Tell on the screen what becomes of the demo's tasks, until all are over. The last one's merge asks.

    Of a demo that is over when this begins nothing is told.
    """
    hall, options, scene = boot.hall, boot.options, Scene()
    stepped = hall.store.stepped
    if options.hall.script != SCRIPT or not await _is_here(hall, options.hall):
        return
    known = await hall.store.transaction(hall.town_id, _tasks)
    if known and all(task.is_finished for task in known):
        return
    while not scene.is_over:
        before = stepped.count
        tasks = await hall.store.transaction(hall.town_id, _tasks)
        state = await hall.store.state(hall.town_id)
        if scene.begins_to_ask(tasks):
            await hall.store.transaction(hall.town_id, _settle)
        for task, now in scene.news(tasks, state):
            boot.screen.line(f"demo     {_sentence(boot, task, now, tasks)}")
        if not scene.is_over:
            await stepped.wait(after=before)
    boot.screen.line(f"demo     {_end(options)}")


@dataclass
class Scene:
    """What has been told of the demo's tasks, by their ids."""

    told: dict[str, Stage] = field(default_factory=dict[str, Stage])
    _asks: bool = False

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to be told."""
        return len(self.told) == TASKS and all(stage in _OVER for stage in self.told.values())

    def begins_to_ask(self, tasks: Sequence[Bead]) -> bool:
        """Whether only the last task is left, for the first time."""
        first = not self._asks and _only_the_last_is_left(tasks)
        self._asks |= first
        return first

    def news(self, tasks: Sequence[Bead], state: TownState) -> list[tuple[Bead, Stage]]:
        """The tasks that are somewhere else than when they were told of, with where that is."""
        found: list[tuple[Bead, Stage]] = []
        for task in tasks:
            now = _stage(task, state)
            if now and self.told.get(task.id) != now:
                self.told[task.id] = now
                found.append((task, now))
        return found


async def _is_here(hall: Hall, options: HallOptions) -> bool:
    return any(is_demos(rig, options) for rig in (await hall.town()).rigs)


def _settle(board: Transaction, *, slots: int | None = None) -> list[Bead]:
    """Let the last task's merge ask a person, and the others be merged as soon as they may; the tasks."""
    tasks = _tasks(board)
    known = policies.rig_policy(board, RIG)
    asks = _only_the_last_is_left(tasks)
    policies.change_rig_policy(board, RIG, replace(known, merge="ask" if asks else "auto", slots=slots))
    take_rules(board)
    return tasks


def _tasks(board: Transaction) -> list[Bead]:
    return beads.beads(board, RIG, kind=BeadType.ISSUE)


def _only_the_last_is_left(tasks: Sequence[Bead]) -> bool:
    return {task.title for task in tasks if not task.is_finished} == {ASKS_FOR}


def _stage(task: Bead, state: TownState) -> Stage | None:
    work = state.work.get(task.id)
    if work is None:
        return None
    if work.is_finished:
        return "closed" if work.commit is None else "merged"
    if work.question is not None:
        return "question"
    if work.hand_in is not None:
        return "asks" if work.hand_in.phase is HandInPhase.ASKING else None
    if work.rework is not None:
        return "conflict" if work.rework.cause is Cause.CONFLICT else None
    return None if work.attempt is None else "begun"


def _sentence(boot: Boot, task: Bead, stage: Stage, tasks: Sequence[Bead]) -> str:
    bead = short_ids(one.id for one in tasks)[task.id]
    what = {
        "begun": "is begun",
        "conflict": "conflicts with what was merged before it: its author resolves that",
        "asks": f"waits for you, in another terminal: {typed(f'review approve {bead}', boot.options)}",
        "question": f"does not go on by itself: {typed(f'why {bead}', boot.options)}",
        "merged": "is merged",
        "closed": "is closed without a merge",
    }
    return f"“{task.title}” {what[stage]}"


def _end(options: UpOptions) -> str:
    place = shlex.quote(str(options.hall.data_dir / RIG))
    return (
        f"that was all; look at it: git -C {place} log --graph --oneline\n"
        f"next     a town with a model and a repository of yours: KILOCODE_TOKEN=… {program()} up --town mine"
        " --rig PLACE"
    )
