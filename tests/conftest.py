"""What tests of several folders ask for: the plugin that people outside get, by the names that are used here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # pytest loads the plugin itself, with its assertions rewritten
    from gastown.testing.plugin import OpenTown

pytest_plugins = ["gastown.testing.plugin"]


@pytest.fixture
def inline(work_in_place: None) -> None:
    """Work for threads is done in place."""


@pytest.fixture
def town_on_fakes(open_town: OpenTown) -> OpenTown:
    """`async with town_on_fakes(...) as town`: see `open_fake_town`. Needs `virtual_time`."""
    return open_town
