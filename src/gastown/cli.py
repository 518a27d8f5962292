"""`gastown serve | up | hall | openapi`. `serve` starts fast, because it imports nothing of the other commands."""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from gastown import __version__

__all__ = ["build_parser", "main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 1 for a failure, 2 for a wrong call or setting."""
    if arguments is None:
        _in_utf8()
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["serve"] and len(given) == 1:
        return _serve()

    from gastown.hall.cli import up

    parser = build_parser()
    options = parser.parse_args(given)
    match options.command:
        case "serve":
            return _serve()
        case "openapi":
            return _openapi()
        case "up":
            return up.run(options, os.environ)
        case _:
            return up.run_hall(options, os.environ)


def build_parser() -> argparse.ArgumentParser:
    """Every command with its arguments; the reference in docs/ is generated from it."""
    from gastown.hall.cli import up

    parser = argparse.ArgumentParser(prog="gastown", description="Run a team of coding agents in one container.")
    parser.add_argument("--version", action="version", version=f"gastown {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("serve", help="run the container process, with settings from the environment")
    commands.add_parser("openapi", help="print the control API's OpenAPI description")
    up.add_arguments(commands.add_parser("up", help="run a whole town on this machine, until Ctrl-C"))
    up.add_hall_arguments(commands.add_parser("hall", help="run the embedded orchestrator alone"))
    return parser


def _serve() -> int:
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

    logs.configure(tuple)
    try:
        settings = load()
    except BadSettings as error:
        return _complain(str(error))
    if settings.gastown_parent_pid is None:  # `gastown up` knows its containers by their environment
        hide_memory()
    try:
        trio.run(serve, settings)
    except (BadAgentUser, CannotListen, KiloMissing, NoSocketFolder) as error:
        return _complain(str(error))
    except Exception as error:  # noqa: BLE001 - Python's own traceback would bypass the log, and its redaction
        structlog.get_logger().critical("container.crashed", exc_info=error)
        return 1
    return 0


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


def _openapi() -> int:
    import trio

    from gastown.control.app import ROUTES, SOCKETS
    from gastown.control.openapi import describe

    print(json.dumps(trio.run(describe, ROUTES, SOCKETS), indent=2, sort_keys=True))
    return 0


def _complain(problem: str) -> int:
    from gastown import logs

    logs.complain(f"gastown: {problem}")
    return 2
