"""The commands `gastown up` and `gastown hall`: arguments, and errors as one line and an exit code."""

from __future__ import annotations

import io
import logging
import shlex
import signal
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path

import trio

from gastown.contract.git import Remote, is_branch_name
from gastown.contract.identifiers import is_identifier
from gastown.contract.secret import Secret
from gastown.hall.app import LOGGER
from gastown.hall.cli.boot import DEFAULT_MESSAGE, UpFailed, UpOptions
from gastown.hall.cli.bringup import bring_up
from gastown.hall.cli.mayor import MayorLost
from gastown.hall.cli.renewal import renew
from gastown.hall.cli.screen import Screen, open_screen
from gastown.hall.control_client import ControlCallFailed
from gastown.hall.domain.town import RigRecord
from gastown.hall.drivers.process import REFUSED, ContainerDied
from gastown.hall.hall import Hall, HallOptions, open_hall
from gastown.hall.server import PortTaken
from gastown.hall.store.database import StoreError
from gastown.hall.store.lock import DirectoryUnusable
from gastown.hall.tokens import LIFETIME
from gastown.isolation.ownership import write_whole
from gastown.logs import RedactingFormatter

__all__ = ["add_arguments", "add_hall_arguments", "run", "run_hall"]

_UNUSABLE = (DirectoryUnusable, StoreError, PortTaken)
_SHOWN = (*_UNUSABLE, ContainerDied, ControlCallFailed, MayorLost, UpFailed, OSError)
_INTERRUPTED = 130
_WRITTEN_FOR = LIFETIME / 8


def add_arguments(parser: ArgumentParser) -> None:
    """The arguments of `gastown up`."""
    _add_common(parser)
    parser.add_argument("--message", type=_some_text, default=DEFAULT_MESSAGE, help="the first message")
    parser.add_argument("--port", type=_port, default=8080, help="control API's port; 0: any (default 8080)")
    parser.add_argument(
        "--exit-after-first-answer",
        action="store_true",
        help="end the town when the first answer is there; the exit code says whether it was one",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the bars and figures there")


def add_hall_arguments(parser: ArgumentParser) -> None:
    """The arguments of `gastown hall`."""
    _add_common(parser)
    parser.add_argument("--port", type=_port, default=0, help="the hall's port; 0: any (default 0)")


def run(args: Namespace, env: Mapping[str, str]) -> int:
    """`gastown up`, with the caller's environment; the exit code."""
    screen = _screen(env)
    options = UpOptions(
        hall=_hall_options(args, env, port=0),
        environment=env,
        message=args.message,
        port=args.port,
        drain_seconds=_drain_seconds(env),
        exit_after_first_answer=args.exit_after_first_answer,
        report=args.json,
    )

    async def command() -> int:
        return await bring_up(options, screen)

    return _run("gastown up", command, options.hall)


def run_hall(args: Namespace, env: Mapping[str, str]) -> int:
    """`gastown hall`: the orchestrator alone, until Ctrl-C; the exit code."""
    screen = _screen(env)
    options = _hall_options(args, env, port=args.port)
    own_gateway = env.get("KILO_API_URL")

    async def command() -> int:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            path = options.data_dir / "container.env"
            async with open_hall(options) as hall, _kept_written(hall, path, own_gateway):
                gateway = "that of KILO_API_URL" if own_gateway else "Kilo's"
                gateway = "the stand-in, no language model" if hall.stand_in else gateway
                screen.line(f"hall     {hall.url}, town {hall.town_id} in {options.data_dir}")
                screen.line(f"gateway  {gateway}")
                screen.line(f"serve    set -a; . {shlex.quote(str(path))}; set +a; gastown serve")
                async for _ in signals:
                    break
        return 0

    return _run("gastown hall", command, options)


def _add_common(parser: ArgumentParser) -> None:
    parser.add_argument("--town", type=_town, default="town", help="the town's name (default: town)")
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
        metavar="ID=URL[#BRANCH]",
        help="a repository of the town, from now on; may be repeated (default branch: main)",
    )
    parser.add_argument(
        "--turn-seconds",
        type=_seconds,
        default=0.0,
        help="how long the stand-in of the language model takes over an answer (default 0)",
    )


def _hall_options(args: Namespace, env: Mapping[str, str], *, port: int) -> HallOptions:
    home = Path(env.get("HOME") or "/")
    state = Path(env.get("XDG_STATE_HOME") or home / ".local" / "state")
    return HallOptions(
        data_dir=(args.dir or state / "gastown" / args.town).absolute(),
        town_id=args.town,
        port=port,
        kilocode_token=Secret(env["KILOCODE_TOKEN"]) if env.get("KILOCODE_TOKEN") else None,
        organization_id=env.get("GASTOWN_ORGANIZATION_ID"),
        default_model=args.model,
        rigs=args.rigs,
        turn_seconds=args.turn_seconds,
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


def _run(name: str, command: Callable[[], Awaitable[int]], options: HallOptions) -> int:
    """Run `command` under Trio; what can go wrong becomes one line on stderr and an exit code."""
    handler = _LogFile(options.data_dir / "hall.log", delay=True)  # the directory is made later
    form = "%(asctime)s %(levelname)s %(name)s %(message)s"
    handler.setFormatter(RedactingFormatter(form, lambda: options.secrets))
    logger = logging.getLogger(LOGGER)
    logger.addHandler(handler)
    logger.propagate = False
    try:
        return trio.run(command, restrict_keyboard_interrupt_to_checkpoints=True)
    except (Exception, BaseExceptionGroup, KeyboardInterrupt) as error:
        leaves = list(_leaves(error))
        if not all(isinstance(leaf, (*_SHOWN, KeyboardInterrupt)) for leaf in leaves):
            raise
        shown = next((leaf for leaf in leaves if isinstance(leaf, _SHOWN)), None)
        if shown is None:
            return _INTERRUPTED
        sys.stderr.write(f"{name}: {_sentence(shown)}\n")
        return _exit_code(shown)
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
async def _kept_written(hall: Hall, path: Path, gateway: str | None) -> AsyncIterator[None]:
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


async def _variables(hall: Hall, gateway: str | None) -> str:
    """What a container needs to know about this hall, as lines for a shell.

    `gateway` is the base URL of the language model's, None for Kilo's; with the stand-in it is the hall's own.
    """
    town = await hall.town()
    variables = {
        "GASTOWN_API_URL": hall.url,
        "GASTOWN_TOWN_ID": hall.town_id,
        "GASTOWN_CONTAINER_TOKEN": (await hall.container_token()).reveal(),
        "KILOCODE_TOKEN": town.kilocode_token.reveal() if town.kilocode_token else None,
        "GASTOWN_ORGANIZATION_ID": town.organization_id,
        "KILO_API_URL": hall.url if hall.stand_in else gateway,
    }
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in variables.items() if value)


def _screen(env: Mapping[str, str]) -> Screen:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    return open_screen(sys.stdout, env)


def _drain_seconds(env: Mapping[str, str]) -> float:
    """The container's own setting, when it is one; else what a town on a desk needs."""
    try:
        return max(0.0, float(env["GASTOWN_DRAIN_SECONDS"]))
    except (KeyError, ValueError):
        return UpOptions.drain_seconds


def _town(text: str) -> str:
    if not is_identifier(text):
        raise ArgumentTypeError("letters, digits and . _ : @ - only")
    return text


def _rig(text: str) -> RigRecord:
    """A repository of the town. No sentence repeats an address, which may hold a login."""
    rig_id, _, place = text.partition("=")
    url, _, branch = place.partition("#")
    branch = branch or "main"
    if not is_identifier(rig_id):
        raise ArgumentTypeError("ID=URL: the ID has letters, digits and . _ : @ - only")
    try:
        Remote.parse(url)
    except ValueError as error:
        raise ArgumentTypeError(f"the URL of {rig_id} {error}") from None
    if not is_branch_name(branch):
        raise ArgumentTypeError(f"the branch of {rig_id} is not a name that git takes for a branch")
    return RigRecord(rig_id=rig_id, git_url=url, default_branch=branch)


def _some_text(text: str) -> str:
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
