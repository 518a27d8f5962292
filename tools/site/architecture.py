"""`python -m tools.site.architecture [--print]`: records the tree of tasks of an open town into the page about it.

The town is `gastown.main.serve` with a fake kilo, a fake worker and a virtual clock. It brings back a mayor and a
polecat, and drains. A row of the tree is a nursery that gastown's code opened, or a task that it started.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from inspect import getdoc, unwrap
from io import StringIO
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any
from unittest.mock import patch

import structlog
import trio
import trio.testing

from gastown import logs, main
from gastown.assembly import Parts
from gastown.testing.clock import WallClock
from gastown.testing.git import FakeGit
from gastown.testing.launchers import FakeLauncher
from gastown.testing.network import MemoryNetwork, open_network
from gastown.testing.town import TOWN, ToldSettings, make_room, start_request
from gastown.testing.worker import FakeWorker
from tools.site.markdown import sentence
from tools.site.tree import Node, between_marks, text_of

__all__ = ["main_page", "record"]

_PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "architecture.md"
_AGENTS = ("mayor-1", "polecat-1")
_LIVED_SECONDS = 40.0
"""Virtual seconds before the town drains: every periodic task has run."""
_IDLE_SECONDS = 0.05
"""Real seconds without work before the clock jumps: threads have answered by then."""
_HELPERS = ("gastown.concurrency", "gastown.testing")
"""Rooms that open nurseries for others: the row is named by the caller."""


@dataclass
class _Row:
    """A nursery or a task, and what ran inside it, in the order of first appearance."""

    name: str
    note: str
    inside: list[_Row] = field(default_factory=list)


class _Recorder(trio.abc.Instrument):
    """Follows the nurseries that gastown opens and the tasks that run in them, from one task downwards."""

    def __init__(self) -> None:
        self.root = _Row("gastown", "")
        self._nurseries: dict[trio.Nursery, _Row] = {}
        self._tasks: dict[trio.lowlevel.Task, _Row] = {}
        self._starting: set[trio.lowlevel.Task] = set()

    def follow(self, task: trio.lowlevel.Task) -> None:
        self._tasks[task] = self.root

    def opened(self, nursery: trio.Nursery, frame: FrameType) -> None:
        above = self._tasks.get(nursery.parent_task)
        if above is None:
            return
        opener = _opener(frame)
        if opener is None:
            self._nurseries[nursery] = above  # of a library: what runs inside is shown without it
            return
        row = _Row(_spoken(opener.f_code.co_qualname), _note(opener))
        above.inside.append(row)
        self._nurseries[nursery] = row

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        if not self._attached(task, task.parent_nursery):
            self._starting.add(task)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        # Until it has started, what `nursery.start` began is in a nursery of Trio's own.
        if task in self._starting:
            self._starting.discard(task)
            self._attached(task, task.eventual_parent_nursery)

    def _attached(self, task: trio.lowlevel.Task, nursery: trio.Nursery | None) -> bool:
        above = self._nurseries.get(nursery) if nursery else None
        if above is None:
            return False
        if task.name.startswith("trio."):
            self._tasks[task] = above
            return True
        if _module(task).startswith("gastown.testing"):
            return True  # a fake's
        row = _Row(_anonymous(task.name), "")
        above.inside.append(row)
        self._tasks[task] = row
        return True


def _module(task: trio.lowlevel.Task) -> str:
    frame = getattr(task.coro, "cr_frame", None)
    return str(frame.f_globals.get("__name__", "")) if frame is not None else ""


def _opener(frame: FrameType | None) -> FrameType | None:
    """The innermost frame of gastown that is no helper's; None where a library opened the nursery."""
    first = frame
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name.startswith("gastown.") and not name.startswith(_HELPERS):
            return frame
        if frame is first and not name.startswith("gastown."):
            return None
        frame = frame.f_back
    return None


def _spoken(qualified: str) -> str:
    """`open_registry_writer` is `registry writer`, `_Life.run` is `Life.run`."""
    name = qualified.rpartition("<locals>.")[2]
    if name.startswith(("open_", "_open_")):
        return name.removeprefix("_").removeprefix("open_").replace("_", " ")
    return ".".join(part.lstrip("_") for part in name.split("."))


def _note(frame: FrameType) -> str:
    """The first sentence of the docstring of the function that a frame runs."""
    found: Any = import_module(frame.f_globals["__name__"])
    for part in frame.f_code.co_qualname.split("."):
        found = getattr(found, part, None)
    return sentence((getdoc(unwrap(found)) or "") if found is not None else "").split(". ")[0].rstrip(".")


def _anonymous(name: str) -> str:
    """A task's name without what differs between two agents or two runs."""
    for agent in _AGENTS:
        name = name.replace(agent, "…")
    name = re.sub(r"'[^']*'|(?<=\s)/\S+", "…", name)
    name = re.sub(r"\b(?=[0-9a-f-]*\d)[0-9a-f-]{6,}\b|(?<=\W)\d+", "…", name)
    return name.removeprefix("gastown.").replace(".<locals>.", ".")


@contextmanager
def _watched(recorder: _Recorder) -> Iterator[None]:
    """Every nursery that is opened inside the block is told to `recorder`."""

    class Watched:
        def __init__(self, *arguments: Any, **options: Any) -> None:
            self._manager = opening(*arguments, **options)
            self._frame = sys._getframe(1)  # noqa: SLF001 - the caller

        async def __aenter__(self) -> trio.Nursery:
            nursery = await self._manager.__aenter__()
            recorder.opened(nursery, self._frame)
            return nursery

        async def __aexit__(
            self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
        ) -> bool:
            return bool(await self._manager.__aexit__(kind, error, trace))

    opening = trio.open_nursery
    with patch.object(trio, "open_nursery", Watched):
        yield


async def _live(folder: Path, recorder: _Recorder) -> None:
    """A container's life from its start to the end of its drain."""
    async with open_network() as network:
        worker = FakeWorker(network)
        told = _settings(folder)
        _known_agents(worker, told.gastown_workspace_root)
        parts = partial(_parts, network, WallClock())
        with patch.object(main, "Parts", parts), patch.object(logs, "configure"):
            async with trio.open_nursery() as nursery:

                async def container() -> None:
                    recorder.follow(trio.lowlevel.current_task())
                    await main.serve(told)

                nursery.start_soon(container, name="gastown")
                await trio.sleep(_LIVED_SECONDS)
                os.kill(os.getpid(), signal.SIGTERM)


def _parts(network: MemoryNetwork, clock: WallClock, **given: Any) -> Parts:
    """What `main` puts together, with fakes where a real one leaves the process."""
    fakes: dict[str, Any] = {
        "launch": FakeLauncher(network),
        "kilo_client": network.client(),
        "worker_client": network.client(),
        "now": clock,
        "process_start": trio.current_time(),
        "git": FakeGit(),
    }
    return Parts(**given | fakes)


def _settings(folder: Path) -> ToldSettings:
    told: dict[str, Any] = {
        "gastown_town_id": TOWN,
        "gastown_api_url": "http://worker",
        "gastown_container_token": "token",
        "gastown_workspace_root": str(folder / "rigs"),
        "gastown_agent_home_root": str(folder / "homes"),
        "gastown_control_port": 0,
        "gastown_insecure": True,
        "gastown_kilo_bin": sys.executable,  # has to be there; it is not run
        "base_env": {"PATH": "/usr/bin:/bin"},
    }
    return ToldSettings(**told)


def _known_agents(worker: FakeWorker, workspace: str) -> None:
    """The worker remembers both agents from the container before."""
    for agent in _AGENTS:
        request = start_request(agent)
        worker.registry.append(
            {"agentId": agent, "request": request, "workdir": make_room(workspace, request), "env": {}}
        )
    worker.mayor = {
        "success": True,
        "agentId": _AGENTS[0],
        "model": "test/large",
        "smallModel": "test/small",
        "kilocodeToken": "kilo-token",
        "organizationId": None,
    }


def record() -> Node:
    """The tree of a town that opens, lives and drains in virtual time. It takes the signals meanwhile."""
    recorder = _Recorder()
    logs.configure(tuple, StringIO())
    try:
        with tempfile.TemporaryDirectory(prefix="gastown-architecture-") as folder, _watched(recorder):
            clock = trio.testing.MockClock(autojump_threshold=_IDLE_SECONDS)
            trio.run(_live, Path(folder), recorder, clock=clock, instruments=[recorder])
    finally:
        structlog.reset_defaults()
    return _merged([recorder.root])


def _merged(same: list[_Row]) -> Node:
    """One node for rows of one name: two agents differ in their ids alone."""
    groups: dict[str, list[_Row]] = {}
    for row in same:
        for inner in row.inside:
            groups.setdefault(inner.name, []).append(inner)
    note = next((row.note for row in same if row.note), "")
    return Node(same[0].name, note, [_merged(rows) for rows in groups.values()])


def main_page(page: str) -> str:
    """The text of the page with a tree that was recorded just now."""
    return between_marks(page, text_of(record()))


if __name__ == "__main__":
    if sys.argv[1:] == ["--print"]:
        sys.stdout.write(text_of(record()))
        raise SystemExit
    _PAGE.write_text(main_page(_PAGE.read_text("utf-8")), "utf-8")
    sys.stdout.write(f"architecture: {_PAGE}\n")
