"""Names and addresses from outside that must not be taken."""

from __future__ import annotations

import pytest

from gastown.contract.git import Remote, is_branch_name
from gastown.contract.identifiers import is_identifier


@pytest.mark.parametrize("name", ["a\n", "pole-1\n", "\n", "a\nb"])
def test_an_identifier_holds_no_newline_also_not_at_its_end(name: str) -> None:
    assert not is_identifier(name)


@pytest.mark.parametrize("path", ["/a/../b", "/a/%2e%2e/b", "/a/%2E./b", "/%2e%2e"])
def test_an_address_with_a_segment_that_leads_up_is_refused_however_it_is_written(path: str) -> None:
    with pytest.raises(ValueError, match=r"must not hold a '\.\.' segment"):
        Remote.parse(f"https://git.test{path}")


@pytest.mark.parametrize("name", [".x", "a/.b", "a/.b/c"])
def test_no_segment_of_a_branch_begins_with_a_dot(name: str) -> None:
    assert not is_branch_name(name)
