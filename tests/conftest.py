"""What tests of several folders ask for: the plugin that people outside get, by the names that are used here."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

if TYPE_CHECKING:  # pytest loads the plugin itself, with its assertions rewritten
    from gastown.testing.plugin import OpenTown

pytest_plugins = ["gastown.testing.plugin"]


def pytest_configure() -> None:
    """A shell has what it runs in the background ignore Ctrl-C, and so would every town that a test starts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def inline(work_in_place: None) -> None:
    """Work for threads is done in place."""


@pytest.fixture
def town_on_fakes(open_town: OpenTown) -> OpenTown:
    """`async with town_on_fakes(...) as town`: see `open_fake_town`. Needs `virtual_time`."""
    return open_town


class _ByFile(LoadScopeScheduling):  # type: ignore[misc]
    """A file's tests run in one process, in order. While there is anything else to do, one process alone is at the
    files of the real kilo, whose servers take a core each.
    """

    def _split_scope(self, nodeid: str) -> str:
        return nodeid.split("::", 1)[0]

    def _assign_work_unit(self, node: object) -> None:
        self.workqueue.move_to_end(self._next_for(node), last=False)
        super()._assign_work_unit(node)

    def _next_for(self, node: object) -> str:
        of_kilo = [file for file in self.workqueue if _is_of_kilo(file)]
        others = [file for file in self.workqueue if not _is_of_kilo(file)]
        taken = any(
            _is_of_kilo(file) and not all(tests.values())
            for one, files in self.assigned_work.items()
            if one is not node
            for file, tests in files.items()
        )
        first, then = (others, of_kilo) if taken else (of_kilo, others)
        return str((first or then)[0])


def _is_of_kilo(file: str) -> bool:
    return file.startswith("tests/kilo/")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> _ByFile:
    return _ByFile(config, log)
