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
    """A file's tests run in one process, in order; so do all of the real kilo, whose servers take a core each."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::", 1)[0]
        return "tests/kilo" if file.startswith("tests/kilo/") else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> _ByFile:
    return _ByFile(config, log)
