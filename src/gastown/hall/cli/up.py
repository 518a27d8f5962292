"""The commands `gastown up` and `gastown hall`: what they run, and errors as one line and an exit code."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from argparse import Namespace
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path

import trio

from gastown.contract.secret import Secret
from gastown.hall.app import LOGGER
from gastown.hall.cli.arguments import town_folder
from gastown.hall.cli.awake_clock import AwakeClock
from gastown.hall.cli.boot import UpFailed, UpOptions, own_gateway
from gastown.hall.cli.bringup import INTERRUPTED, bring_up
from gastown.hall.cli.interrupts import Interrupts
from gastown.hall.cli.mayor import MayorLost
from gastown.hall.cli.renewal import renew
from gastown.hall.cli.screen import Screen, open_screen
from gastown.hall.control_client import ControlCallFailed
from gastown.hall.drivers.process import REFUSED, ContainerDied
from gastown.hall.hall import Hall, HallOptions, open_hall
from gastown.hall.lock import DirectoryUnusable
from gastown.hall.server import PortTaken
from gastown.hall.stand_in.script import ScriptUnusable
from gastown.hall.store.database import StoreError
from gastown.hall.tokens import LIFETIME
from gastown.isolation.ownership import write_whole
from gastown.logs import RedactingFormatter, complain

__all__ = ["run", "run_hall"]

_UNUSABLE = (DirectoryUnusable, ScriptUnusable, StoreError, PortTaken)
_SHOWN = (*_UNUSABLE, ContainerDied, ControlCallFailed, MayorLost, UpFailed, OSError)
_WRITTEN_FOR = LIFETIME / 8


def run(args: Namespace, env: Mapping[str, str]) -> int:
    """`gastown up`, with the caller's environment; the exit code."""
    screen = open_screen(sys.stdout, env)
    if args.tell_when_up is not None:
        os.set_inheritable(args.tell_when_up, False)  # its end is to be seen, whatever process of the town is left
    options = UpOptions(
        hall=_hall_options(args, env, port=0),
        environment=env,
        message=args.message,
        port=args.port,
        drain_seconds=_drain_seconds(env),
        exit_after_first_answer=args.exit_after_first_answer,
        report=args.report,
        tell_when_up=args.tell_when_up,
    )

    async def command() -> int:
        return await bring_up(options, screen)

    return _run("gastown up", command, options.hall, screen)


def run_hall(args: Namespace, env: Mapping[str, str]) -> int:
    """`gastown hall`: the orchestrator alone, until Ctrl-C; the exit code."""
    screen = open_screen(sys.stdout, env)
    options = _hall_options(args, env, port=args.port)
    own = own_gateway(env)

    async def command() -> int:
        interrupts = Interrupts(screen)
        path = options.data_dir / "container.env"
        async with trio.open_nursery() as nursery:
            await nursery.start(interrupts.handle_signals)
            nursery.start_soon(interrupts.watch_reader, name="reader of the output")
            async with open_hall(options) as hall, _kept_written(hall, path, {own: env[own]} if own else {}):
                hall.desk.end = interrupts.end
                gateway = f"that of {own}" if own else "Kilo's"
                gateway = "the stand-in, no language model" if hall.stand_in else gateway
                screen.line(f"hall     {hall.url}, town {hall.town_id} in {options.data_dir}")
                screen.line(f"gateway  {gateway}")
                screen.line(f"serve    set -a; . {shlex.quote(str(path))}; set +a; gastown serve")
                with interrupts.block():
                    await trio.sleep_forever()
            nursery.cancel_scope.cancel(reason="the hall is closed")
        return 0

    return _run("gastown hall", command, options, screen)


def _hall_options(args: Namespace, env: Mapping[str, str], *, port: int) -> HallOptions:
    return HallOptions(
        data_dir=town_folder(args, env),
        town_id=args.town,
        port=port,
        kilocode_token=Secret(env["KILOCODE_TOKEN"]) if env.get("KILOCODE_TOKEN") else None,
        organization_id=env.get("GASTOWN_ORGANIZATION_ID"),
        default_model=args.model,
        rigs=args.rigs,
        turn_seconds=args.turn_seconds,
        script=args.script,
    )


class _LogFile(logging.FileHandler):
    """The hall goes on when its log cannot be written: those lines are lost."""

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):  # of opening the file
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - its name there
        """Do nothing where the original writes a trace to stderr."""

    def close(self) -> None:
        with suppress(OSError):
            super().close()


def _run(name: str, command: Callable[[], Awaitable[int]], options: HallOptions, screen: Screen) -> int:
    """Run `command` under Trio; what can go wrong becomes one line on stderr and an exit code."""
    try:
        with _logging_to(options.data_dir / "hall.log", options):
            code = trio.run(command, clock=AwakeClock(), restrict_keyboard_interrupt_to_checkpoints=True)
    except (Exception, BaseExceptionGroup, KeyboardInterrupt) as error:
        leaves = list(_leaves(error))
        if not all(isinstance(leaf, (*_SHOWN, KeyboardInterrupt)) for leaf in leaves):
            raise
        shown = next((leaf for leaf in leaves if isinstance(leaf, _SHOWN)), None)
        code = INTERRUPTED if shown is None else _exit_code(shown)
        sentence = "interrupted" if shown is None else _sentence(shown)
    else:
        sentence = "interrupted" if code == INTERRUPTED else ""
    if sentence:
        screen.settle()
        complain(f"{name}: {sentence}")
    return code


@contextmanager
def _logging_to(path: Path, options: HallOptions) -> Iterator[None]:
    """For the length of the block, what the hall logs goes into the file at `path`, without the town's secrets."""
    handler = _LogFile(path, delay=True)  # the directory is made later
    form = "%(asctime)s %(levelname)s %(name)s %(message)s"
    handler.setFormatter(RedactingFormatter(form, lambda: options.secrets))
    logger = logging.getLogger(LOGGER)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _sentence(error: BaseException) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"cannot use {error.filename}: {error.strerror}"
    return str(error)


def _exit_code(error: BaseException) -> int:
    """2 for what the caller can correct, 1 for other failures."""
    refused = isinstance(error, ContainerDied) and error.returncode == REFUSED
    return 2 if refused or isinstance(error, _UNUSABLE) else 1


@asynccontextmanager
async def _kept_written(hall: Hall, path: Path, gateway: Mapping[str, str]) -> AsyncIterator[None]:
    """The file for a container of this hall, gone after the block. The token in it always has hours left."""

    async def write() -> None:
        await trio.to_thread.run_sync(write_whole, path, await _variables(hall, gateway), 0o600)

    async def write_again() -> bool:
        try:
            await write()
        except OSError as error:
            logging.getLogger(LOGGER).warning("the container's file holds an old token: %s", error)
            return False
        return True

    began = hall.now()
    with _removed_afterwards(path):
        await write()
        async with trio.open_nursery() as nursery:
            renewal = partial(renew, hall.now, write_again, given=began, every=_WRITTEN_FOR)
            nursery.start_soon(renewal, name="container.env")
            yield
            nursery.cancel_scope.cancel(reason="the hall closes")


@contextmanager
def _removed_afterwards(path: Path) -> Iterator[None]:
    """Remove the file at the end of the block: it holds the gateway's token and the address of a closed hall."""
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


async def _variables(hall: Hall, gateway: Mapping[str, str]) -> str:
    """What a container needs to know about this hall, as lines for a shell.

    `gateway` is the variable for the language model's, empty for Kilo's; with the stand-in it is the hall's own.
    """
    town = await hall.town()
    variables = {
        "GASTOWN_API_URL": hall.url,
        "GASTOWN_TOWN_ID": hall.town_id,
        "GASTOWN_CONTAINER_TOKEN": (await hall.container_token()).reveal(),
        "KILOCODE_TOKEN": town.kilocode_token.reveal() if town.kilocode_token else None,
        "GASTOWN_ORGANIZATION_ID": town.organization_id,
        **({"KILO_API_URL": hall.url} if hall.stand_in else gateway),
    }
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in variables.items() if value)


def _drain_seconds(env: Mapping[str, str]) -> float:
    """The container's own setting, when it is one; else what a town on a desk needs."""
    try:
        return max(0.0, float(env["GASTOWN_DRAIN_SECONDS"]))
    except (KeyError, ValueError):
        return UpOptions.drain_seconds
