"""The pytest plugin: virtual time, and a town on fakes as a fixture.

In the `conftest.py` of your tests: `pytest_plugins = ["gastown.testing.plugin"]`. It needs the extra
`gastown[testing]`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from functools import partial
from inspect import iscoroutinefunction
from pathlib import Path

import pytest

from gastown.testing.clock import in_virtual_time, threads_in_place
from gastown.testing.town import FakeTown, open_fake_town

__all__ = ["OpenTown", "open_town", "work_in_place"]

OpenTown = Callable[..., AbstractAsyncContextManager[FakeTown]]
"""The type of the fixture `open_town`: the keywords of `gastown.testing.open_fake_town`."""


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", "virtual_time: an async test whose clock jumps when every task waits")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give virtual time to the tests that are marked, one by one or a whole module by its `pytestmark`.

    pytest-trio sees a clock only among the arguments of the test itself, and a test without one runs in real
    time: slowly, and without a word about it.
    """
    for item in items:
        marked = item.get_closest_marker("virtual_time") is not None
        if marked and isinstance(item, pytest.Function) and iscoroutinefunction(item.obj):
            item.add_marker(pytest.mark.trio(run=in_virtual_time), append=False)


@pytest.fixture
def work_in_place() -> Iterator[None]:
    """Work for threads is done in place: the jumping clock takes a thread for idleness."""
    with threads_in_place():
        yield


@pytest.fixture
def open_town(tmp_path: Path, work_in_place: None) -> OpenTown:
    """`async with open_town() as town:` a town on fakes in a folder of the test's own. Needs `virtual_time`.

    Its keywords are those of `gastown.testing.open_fake_town`.
    """
    return partial(open_fake_town, tmp_path)
