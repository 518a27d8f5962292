"""What tests of several folders ask for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any

import pytest
import trio

from gastown.testing.town import FakeTown, open_fake_town, threads_inline


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "virtual_time: runs under a clock that jumps when nobody has work")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`pytestmark = pytest.mark.virtual_time` gives a whole module virtual time.

    pytest-trio sees a clock only among the arguments of the test itself, and a test without one runs in real
    time: slowly, and without anybody noticing.
    """
    for item in items:
        if item.get_closest_marker("virtual_time") is not None and iscoroutinefunction(item.obj):
            item.add_marker(pytest.mark.trio(run=in_virtual_time), append=False)


def in_virtual_time(
    test: Callable[..., Awaitable[Any]],
    *,
    clock: trio.abc.Clock | None = None,
    instruments: Sequence[trio.abc.Instrument] = (),
) -> Any:
    """`trio.run` under a clock that starts at 0 and jumps to the next deadline when nobody has work."""
    return trio.run(test, clock=clock or trio.testing.MockClock(autojump_threshold=0), instruments=instruments)


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work for threads is done in place: the autojump clock takes a thread for idleness (P23)."""
    monkeypatch.setattr(trio.to_thread, "run_sync", threads_inline)
    monkeypatch.setattr(trio._path, "run_sync", threads_inline)


@pytest.fixture
def town_on_fakes(tmp_path: Path, inline: None) -> Callable[..., AbstractAsyncContextManager[FakeTown]]:
    """`async with town_on_fakes(...) as town`: see `open_fake_town`. Needs `virtual_time`."""
    return partial(open_fake_town, tmp_path)
