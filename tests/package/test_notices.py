"""THIRD-PARTY-NOTICES is what the runtime lock brings, and every licence in it may be passed on."""

from __future__ import annotations

import pytest
from packaging.requirements import Requirement

from tools import notices


def test_the_notices_are_those_of_the_lock() -> None:
    """When it fails, the lock or kilo has changed: `make notices`, read the difference, commit it."""
    assert notices.NOTICES.read_text("utf-8") == notices.notices()


def test_every_package_of_the_lock_comes_with_the_text_of_its_licence() -> None:
    found = [notices.notice_of(requirement) for requirement in notices.pinned()]
    assert len(found) >= 30
    assert [notice.name for notice in found if not any(len(text) > 500 for text in notice.texts)] == []


@pytest.mark.parametrize("licence", ["GPL-3.0-only", "", "MIT AND GPL-3.0-only", "AGPL-3.0-or-later OR LGPL-3.0"])
def test_a_licence_that_nobody_has_allowed_is_refused(licence: str) -> None:
    with pytest.raises(notices.Wrong, match="licence of thing"):
        notices.check("thing", licence)


@pytest.mark.parametrize("licence", ["MIT", "MIT AND ISC", "GPL-2.0-only OR MIT"])
def test_of_alternatives_one_is_enough(licence: str) -> None:
    notices.check("thing", licence)


@pytest.mark.parametrize("requirement", ["trio==0.0.1", "no-such-package==1"])
def test_what_is_not_installed_as_the_lock_says_is_refused(requirement: str) -> None:
    with pytest.raises(notices.Wrong, match="run make setup"):
        notices.notice_of(Requirement(requirement))
