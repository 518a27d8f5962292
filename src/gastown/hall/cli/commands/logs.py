"""`gastown logs`: what has happened in a town, or to one of its agents, and with `-f` what happens."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from gastown.hall.cli.commands import texts
from gastown.hall.cli.commands.agent_log import AgentLog
from gastown.hall.cli.commands.client import TownClient

__all__ = ["logs"]


def logs(town: TownClient, options: Namespace) -> int:
    """Print the log, as JSON an array of it, and with `-f` a line for each event. 0 once all is told, the town is
    down, or the reader has left.
    """
    path = () if options.agent is None else ("agents", options.agent)
    before = town.ask("GET", *path, "log", last=str(options.last))
    lines_of = _as_lines(options)
    try:
        if options.json and not options.follow:
            _write([json.dumps(before, indent=2)])
            return 0
        for one in before:
            _write(lines_of(one))
        if options.follow:
            after = before[-1]["number"] if before else 0
            for one in town.events(after, *path):
                _write(lines_of(one))
    except BrokenPipeError:
        return 0
    return 0


def _as_lines(options: Namespace) -> Callable[[Any], Iterable[str]]:
    if options.json:
        return lambda one: [json.dumps(one)]
    if options.agent is not None:
        return AgentLog().lines
    return _happened


def _happened(one: Any) -> Iterator[str]:
    yield texts.happening(one)


def _write(lines: Iterable[str]) -> None:
    """Each line is out when this returns: what follows it may be long in coming."""
    out = sys.stdout
    if out is None:
        return
    encoding = getattr(out, "encoding", None) or "utf-8"
    for line in lines:
        out.write(f"{line}\n".encode(encoding, "replace").decode(encoding))
    out.flush()
