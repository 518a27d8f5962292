"""What tests of several folders ask for: the plugin that people outside get, by the names that are used here."""

from __future__ import annotations

import pytest

pytest_plugins = ["gastown.testing.plugin"]


@pytest.fixture
def inline(work_in_place):
    """Work for threads is done in place."""
    return work_in_place


@pytest.fixture
def town_on_fakes(open_town):
    """`async with town_on_fakes(...) as town`: see `open_fake_town`. Needs `virtual_time`."""
    return open_town
