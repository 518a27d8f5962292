"""The command `gastown`: a container, a town, a hall, or a question to a town that is up.

Each imports what it needs and no more: `serve` starts fast, and so does what asks a running town.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from gastown import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:  # each import up here, that of typing too, is time in which Ctrl-C still ends in a traceback
    from argparse import ArgumentParser, Namespace
    from types import FrameType

__all__ = ["build_parser", "main"]

_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code.

    0, 1 for a failure, 2 for a wrong call or setting, 3 for no such town or bead, 4 where a person is needed, 130
    for Ctrl-C.
    """
    if arguments is None:
        _in_utf8()
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with _interrupted_in_one_line():
            command = _command(given)
        code = command()
    except KeyboardInterrupt:
        return _complain("interrupted", _INTERRUPTED)
    except BaseExceptionGroup as group:
        if group.split(KeyboardInterrupt)[1] is not None:
            raise
        return _complain("interrupted", _INTERRUPTED)
    finally:
        problem = _flushed()
        if arguments is None and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process is about to end
    return code if problem is None else _complain(f"cannot write to stdout: {problem}", 1)


def _command(given: Sequence[str]) -> Callable[[], int]:
    """What the arguments ask for, with all that it imports."""
    if list(given) == ["serve"]:
        return _prepare_to_serve()

    from gastown.hall.cli.commands.arguments import spelled_out

    options = build_parser().parse_args(spelled_out(given))
    if options.command == "serve":
        return _prepare_to_serve()
    if options.command == "openapi":
        return _prepare_openapi()

    if options.command not in ("up", "hall"):
        from gastown.hall.cli.commands.run import run

        return lambda: run(options, os.environ)

    if options.command == "up":
        return _prepare_up(options, given)

    from gastown.hall.cli import up

    return lambda: up.run_hall(options, os.environ)


def _prepare_up(options: Namespace, given: Sequence[str]) -> Callable[[], int]:
    _say_unknown_settings()
    if options.detach and options.tell_when_up is None:
        from gastown.hall.cli.commands.detached import up_detached

        return lambda: up_detached(options, os.environ, given)

    from gastown.hall.cli import up

    return lambda: up.run(options, os.environ)


@contextmanager
def _interrupted_in_one_line() -> Iterator[None]:
    """Ctrl-C ends the process at once while it only imports: an exception would come out of any module."""

    def end(_number: int, _frame: FrameType | None) -> None:
        with suppress(OSError):
            os.write(2, b"gastown: interrupted\n")
        os._exit(_INTERRUPTED)

    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # ignored, or not ours
        yield
        return
    signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _flushed() -> str | None:
    """Write out what was printed: why that failed. A reader that has left, as below `| head`, is no failure."""
    if sys.stdout is None:
        return None
    try:
        sys.stdout.flush()
    except OSError as error:
        # Python writes it once more when it ends, and would complain in its own words.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return None if isinstance(error, BrokenPipeError) else str(error.strerror)
    return None


def build_parser() -> ArgumentParser:
    """Every command with its arguments; the reference in docs/ is generated from it."""
    import argparse

    from gastown.hall.cli import arguments
    from gastown.hall.cli.commands.arguments import add_town_commands

    parser = argparse.ArgumentParser(prog="gastown", description="Run a team of coding agents in one container.")
    parser.add_argument("--version", action="version", version=f"gastown {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("serve", help="run the container process, with settings from the environment")
    commands.add_parser("openapi", help="print the control API's OpenAPI description")
    arguments.add_arguments(commands.add_parser("up", help="run a whole town on this machine, until Ctrl-C"))
    arguments.add_hall_arguments(commands.add_parser("hall", help="run the embedded orchestrator alone"))
    add_town_commands(commands)
    return parser


def _prepare_to_serve() -> Callable[[], int]:
    with _uncollected():
        import structlog
        import trio

        from gastown import logs
        from gastown.boot.accounts import BadAgentUser
        from gastown.control.server import CannotListen
        from gastown.git.helper_service import NoSocketFolder
        from gastown.isolation.users import hide_memory
        from gastown.kilo.binary import KiloMissing
        from gastown.main import serve
        from gastown.settings import BadSettings, load

    def run() -> int:
        logs.configure(tuple)
        try:
            settings = load()
        except BadSettings as error:
            return _complain(str(error))
        if settings.gastown_parent_pid is None:  # `gastown up` knows its containers by their environment
            hide_memory()
        try:
            trio.run(serve, settings, restrict_keyboard_interrupt_to_checkpoints=True)
        except (BadAgentUser, BadSettings, CannotListen, KiloMissing, NoSocketFolder) as error:
            return _complain(str(error))
        except Exception as error:  # noqa: BLE001 - Python's own traceback would bypass the log, and its redaction
            structlog.get_logger().critical("container.crashed", exc_info=error)
            return 1
        return 0

    return run


def _say_unknown_settings() -> None:
    """On the screen, since the container's log is not what a person looks at."""
    from gastown import logs
    from gastown.settings import unknown_settings

    for name, nearest in unknown_settings().items():
        hint = f"; did you mean {nearest}?" if nearest else ""
        logs.complain(f"gastown: {name} is no setting, and is ignored{hint}")


def _in_utf8() -> None:
    """Where the locale is not UTF-8, begin again in Python's UTF-8 mode, as the same process.

    Files, their names and the variables of children are UTF-8 here: an author called Jörg would fail otherwise.
    """
    if sys.getfilesystemencoding() != "utf-8" and not sys.flags.utf8_mode and sys.executable:
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


@contextmanager
def _uncollected() -> Iterator[None]:
    """No garbage collection during the imports of the block: that saves a tenth of the time to /health."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _prepare_openapi() -> Callable[[], int]:
    import json

    import trio

    from gastown.control.app import ROUTES, SOCKETS
    from gastown.control.openapi import describe

    def run() -> int:
        text = json.dumps(trio.run(describe, ROUTES, SOCKETS), indent=2, sort_keys=True)
        try:
            print(text, flush=True)
        except BrokenPipeError:
            pass
        except OSError as error:
            return _complain(f"cannot write to stdout: {error.strerror}", 1)
        return 0

    return run


def _complain(problem: str, code: int = 2) -> int:
    from gastown import logs

    logs.complain(f"gastown: {problem}")
    return code
