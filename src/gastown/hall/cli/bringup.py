"""Bringing a town up: a hall, its container and the mayor's first turn; then the town runs until Ctrl-C."""

from __future__ import annotations

import json
import logging
import math
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import NoReturn

import trio

from gastown.concurrency.backoff import delays
from gastown.contract.secret import Secret
from gastown.hall.api.context import MayorPrompted
from gastown.hall.app import LOGGER
from gastown.hall.cli.boot import Boot, UpFailed, UpOptions, own_gateway
from gastown.hall.cli.commands.typed import typed
from gastown.hall.cli.demo import begin_demo, introduce_demo, is_demos, show_demo, with_demo
from gastown.hall.cli.first_turn import first_turn
from gastown.hall.cli.interrupts import Interrupts
from gastown.hall.cli.mayor import MayorLost, tell
from gastown.hall.cli.renewal import renew
from gastown.hall.cli.rigs import set_up_rig, watch_rigs
from gastown.hall.cli.screen import Screen
from gastown.hall.cli.turn import Turn
from gastown.hall.control_client import ControlCallFailed, ControlClient, open_control_client
from gastown.hall.dispatch.dispatcher import Dispatcher
from gastown.hall.dispatch.look import changes_of
from gastown.hall.domain.errors import Conflict
from gastown.hall.drivers.process import (
    REFUSED,
    Container,
    ContainerDied,
    ContainerLeft,
    ContainerOptions,
    base_environment,
    choose_port,
    container_environment,
    end_strays,
    run_container,
)
from gastown.hall.folders import NoFolder, find_folder
from gastown.hall.hall import Hall, open_hall
from gastown.hall.reconcile.facts import ContainerLost
from gastown.hall.tokens import LIFETIME
from gastown.isolation.ownership import write_whole

__all__ = ["CONTROL_TOKEN", "INTERRUPTED", "bring_up"]

CONTROL_TOKEN = "control.token"  # noqa: S105  a file name
"""The file in the town's data directory that holds the bearer of its control port while the town is up."""

CONTROL_ADDRESS = "control.json"
"""The file beside it that says where: `{"url"}`."""

INTERRUPTED = 130
"""The exit code after Ctrl-C, where that is not the usual end."""

_TOKEN_FOR = LIFETIME - timedelta(minutes=30)
_HOST = "127.0.0.1"
_DOWN = "the town is down"
_DEAF_SECONDS = 5  # a container that ends has closed its port before
_RESTART_SECONDS, _RESTART_MOST_SECONDS = 1.0, 60.0
_STEADY_SECONDS = 300.0
"""A container that has lived this long and dies is replaced after the shortest pause, as the first that does."""
_RIG_SECONDS = 20  # for what is wrong with a repository, where the first answer is the end


async def bring_up(options: UpOptions, screen: Screen) -> int:
    """Bring the town up and keep it up until it is told to end, or its container has left; the exit code.

    130 is Ctrl-C before the town was up, or any interruption before the answer that it was to exit after.

    When it returns or raises, no process of the town is left. What can go wrong is raised, in groups too:
    DirectoryUnusable, StoreError, PortTaken, ContainerDied, ControlCallFailed, MayorLost and UpFailed, each of
    which is fit to be shown.
    """
    interrupts = Interrupts(screen)
    async with trio.open_nursery() as nursery:
        await nursery.start(interrupts.handle_signals)
        nursery.start_soon(interrupts.watch_reader, name="reader of the output")
        try:
            code, last_line = await _town(options, screen, interrupts)
        finally:
            screen.end_line()
        screen.line(last_line)
        nursery.cancel_scope.cancel(reason="the town is down")
    return code


async def _town(options: UpOptions, screen: Screen, interrupts: Interrupts) -> tuple[int, str]:
    if options.report is not None:
        await trio.Path(options.report).write_text("", "utf-8")  # a file that cannot be written is told of now
    began, began_at = trio.current_time(), options.hall.now()
    options = await with_demo(options)
    data = options.hall.data_dir
    async with open_hall(options.hall) as hall:
        options = await begin_demo(hall, options)
        await trio.to_thread.run_sync(end_strays, data / "homes")
        port = choose_port(_HOST, options.port)
        url = f"http://{_HOST}:{port}"
        token = Secret(options.environment.get("GASTOWN_CONTROL_TOKEN") or secrets.token_urlsafe(32))
        hall.desk.end = interrupts.end
        with (
            _written(data / CONTROL_TOKEN, f"{token.reveal()}\n"),
            _written(data / CONTROL_ADDRESS, json.dumps({"url": url}) + "\n"),
        ):
            async with open_control_client(url, token) as control:
                boot = Boot(options, screen, hall, control, began, began_at, url)
                boot.seen.hall_ms = boot.ms(trio.current_time())
                _introduce(boot)
                await introduce_demo(boot)
                await _name_the_folder(boot)
                if interrupts.told:
                    return _interrupted(boot, interrupts, is_up=False), _DOWN
                next_options = partial(_container_options, options, hall, port, token)
                return await _run_town(boot, next_options, interrupts)


async def _run_town(
    boot: Boot, next_options: Callable[[], Awaitable[ContainerOptions]], interrupts: Interrupts
) -> tuple[int, str]:
    """The exit code, and the last line of the screen. A container that dies once the town is up is replaced."""
    boot.seen.spawned_ms = boot.ms(trio.current_time())
    try:
        code = await _first_container(boot, await next_options(), interrupts)
        pauses, lived_since = delays(_RESTART_SECONDS, _RESTART_MOST_SECONDS), trio.current_time()
        while code is None and not interrupts.told:
            if trio.current_time() - lived_since > _STEADY_SECONDS:
                pauses = delays(_RESTART_SECONDS, _RESTART_MOST_SECONDS)
            with interrupts.block():
                await trio.sleep(next(pauses))
            if not interrupts.told:
                lived_since = trio.current_time()
                await _next_container(boot, await next_options(), interrupts)
    except ContainerLeft as left:
        return (1 if boot.options.exit_after_first_answer else 0), f"{left}: {_DOWN}"
    return (_interrupted(boot, interrupts, is_up=True) if code is None else code), _DOWN


async def _first_container(boot: Boot, how: ContainerOptions, interrupts: Interrupts) -> int | None:
    """The container with which the town comes up; the exit code, None where it has died once the town was up."""
    is_up, answered = False, None
    try:
        async with _container(how, interrupts) as container:
            with interrupts.block():
                async with trio.open_nursery() as watches:
                    rigs_settled = trio.Event()
                    watches.start_soon(watch_rigs, boot, rigs_settled, name="repositories")
                    if not boot.options.exit_after_first_answer:
                        # What was begun earlier goes on while the mayor still thinks about her first answer.
                        watches.start_soon(_give_work, boot, name="work")
                    turn = await _first_turn(boot, container)
                    if boot.options.exit_after_first_answer:
                        answered = turn is not None and turn.answered
                        with trio.move_on_after(_RIG_SECONDS):
                            await rigs_settled.wait()
                        watches.cancel_scope.cancel(reason="the first turn has ended")
                    else:
                        is_up = True
                        _is_up(boot)
                        await _serve_people(boot)
    except ContainerDied as died:
        if not is_up or died.returncode == REFUSED:
            raise
        await _lost(boot, died)
        return None
    if answered is not None:
        return 0 if answered else 1
    return _interrupted(boot, interrupts, is_up=is_up)


def _is_up(boot: Boot) -> None:
    told = boot.options.tell_when_up
    boot.screen.line(f"the town is up; {'Ctrl-C' if told is None else 'gastown down'} ends it")
    if told is not None:
        with suppress(OSError):  # whoever waited for it has gone
            os.write(told, b"u")
        os.close(told)


async def _next_container(boot: Boot, how: ContainerOptions, interrupts: Interrupts) -> None:
    """A container in place of one that has died; returns when it has ended, too."""
    try:
        async with _container(how, interrupts):
            with interrupts.block():
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_give_work, boot, name="work")
                    await _serve_people(boot)
    except ContainerDied as died:
        if died.returncode == REFUSED:
            raise
        await _lost(boot, died)


@asynccontextmanager
async def _container(how: ContainerOptions, interrupts: Interrupts) -> AsyncIterator[Container]:
    """A container for the length of the block. Interruptions hurry it until it has ended."""
    try:
        async with run_container(how) as container:
            interrupts.container = container
            yield container
    finally:
        interrupts.container = None


async def _lost(boot: Boot, died: ContainerDied) -> None:
    """Say that the container has died; its town goes on with the next one."""
    boot.screen.line(f"{died}\nthe next container is started")
    reason = str(died).partition(";")[0]
    lost = ContainerLost(reason=reason)
    await boot.hall.store.tell(boot.hall.town_id, lost)


def _interrupted(boot: Boot, interrupts: Interrupts, *, is_up: bool) -> int:
    too_early = boot.options.exit_after_first_answer or (interrupts.by_hand and not is_up)
    return INTERRUPTED if too_early else 0


async def _first_turn(boot: Boot, container: Container) -> Turn | None:
    """The first turn; when it fails because the container drains or ends, its end is the better report."""
    try:
        return await first_turn(boot)
    except (ControlCallFailed, MayorLost, UpFailed, ExceptionGroup):
        seconds = await _seconds_to_its_end(boot.control)  # noqa: ASYNC120 - as below
        with trio.move_on_after(seconds):
            await container.wait()  # noqa: ASYNC120 - nothing is lost: what was raised goes on below
            await trio.sleep_forever()  # noqa: ASYNC120 - the end cancels the block
        raise


async def _seconds_to_its_end(control: ControlClient) -> float:
    """How long to wait for the end of a container whose call has failed: for as long as it drains."""
    try:
        draining = (await control.health()).draining
    except ControlCallFailed:
        return _DEAF_SECONDS
    return math.inf if draining else 0


@contextmanager
def _written(path: Path, text: str) -> Iterator[None]:
    """A file for its owner only, for the length of the block."""
    write_whole(path, text, 0o600)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _introduce(boot: Boot) -> None:
    screen, hall, data = boot.screen, boot.hall, boot.options.hall.data_dir
    own = own_gateway(boot.options.environment)
    unused = f"; {own} is not used without one" if own else ""
    gateway = (
        f'the stand-in, no language model (no KILOCODE_TOKEN{unused}; the town gets the placeholder "stand-in")'
        if hall.stand_in
        else (f"that of {own}" if own else "Kilo's") + ", with the town's KILOCODE_TOKEN"
    )
    screen.line(f"town     {hall.town_id} in {data}")
    screen.line(f"hall     {hall.url}")
    screen.line(f"control  {boot.control_url} (log: {data / 'serve.log'}, bearer: {data / CONTROL_TOKEN})")
    screen.line(f"gateway  {gateway}")


async def _name_the_folder(boot: Boot) -> None:
    """Where a town has no repository: say how it gets one. That of a demo which a model does not play is none."""
    hall, options = boot.hall, boot.options
    rigs = [rig for rig in (await hall.town()).rigs if hall.stand_in or not is_demos(rig, options.hall)]
    if rigs:
        return
    try:
        found = await trio.to_thread.run_sync(find_folder, ".")
    except NoFolder:
        if not hall.stand_in:
            boot.screen.line(f"rigs     none; for a repository: {typed('rig add PLACE', options)}")
    else:
        boot.screen.line(f"rigs     none; for the repository in {found.place}: {typed('rig add .', options)}")


async def _container_options(options: UpOptions, hall: Hall, port: int, token: Secret) -> ContainerOptions:
    data = options.hall.data_dir
    homes = data / "homes"
    for folder in (homes, data / "rigs"):
        folder.mkdir(mode=0o700, exist_ok=True)
    base = {"GASTOWN_DRAIN_SECONDS": f"{options.drain_seconds:g}"} | base_environment(options.environment)
    base["GASTOWN_CONTROL_TOKEN"] = token.reveal()
    environment = container_environment(
        base,
        await hall.town(),
        await hall.container_token(),
        api_url=hall.url,
        stand_in=hall.stand_in,
        data_dir=data,
        port=port,
    )
    return ContainerOptions(
        environment=environment,
        log=data / "serve.log",
        homes=homes,
        drain_seconds=options.drain_seconds,
        command=options.command,
    )


async def _give_work(boot: Boot) -> None:
    """Give the container what there is to do, and keep its token fresh, until cancelled."""
    desk = boot.hall.desk
    desk.container, desk.changes = boot.control, partial(changes_of, boot.hall, boot.control)
    try:
        async with trio.open_nursery() as nursery:
            desk.rig_added = lambda rig_id: nursery.start_soon(set_up_rig, boot, rig_id)
            nursery.start_soon(Dispatcher(boot.hall, boot.control).run, name="dispatch")
            await _keep_token_fresh(boot)
    finally:
        desk.container = desk.changes = desk.rig_added = None


async def _serve_people(boot: Boot) -> None:
    """Have what people say to the mayor reach her, and tell them of the demo, until cancelled."""
    boot.hall.desk.tell_mayor = partial(_tell_mayor, boot)
    try:
        await show_demo(boot)
        await trio.sleep_forever()
    finally:
        boot.hall.desk.tell_mayor = None


async def _tell_mayor(boot: Boot, text: str) -> MayorPrompted:
    """Tell the mayor what a person says. Conflict when it can be told nothing; ControlCallFailed."""
    mayor_id = (await boot.hall.town()).mayor_agent_id
    if mayor_id is None:
        raise Conflict("The town has no mayor")
    try:
        told = await tell(boot.hall, boot.control, mayor_id, text)
    except (MayorLost, ValueError) as error:
        raise Conflict(str(error)) from error
    await boot.hall.remember_session(told.session_id)
    return MayorPrompted(
        agent_id=mayor_id, by=told.by, session_id=told.session_id, after=told.after, told_at=told.told_at
    )


async def _keep_token_fresh(boot: Boot) -> NoReturn:
    await renew(boot.hall.now, partial(_hand_token, boot), given=boot.hall.now(), every=_TOKEN_FOR)


async def _hand_token(boot: Boot) -> bool:
    """Give the container its next token: after a sleep past the expiry of its own it cannot ask for one."""
    try:
        await boot.control.refresh_token(await boot.hall.container_token(), boot.hall.town_id)
    except ControlCallFailed as error:
        logging.getLogger(LOGGER).warning("the container has no new token yet: %s", error)
        return False
    return True
