"""The second look at names: what a decoder or a lenient pattern would let through."""

from __future__ import annotations

import pytest

from gastown.contract.git import Remote, is_branch_name
from gastown.contract.identifiers import is_identifier


def test_a_newline_after_an_identifier_is_refused() -> None:
    assert is_identifier("pole-1")
    assert not is_identifier("pole-1\n")


@pytest.mark.parametrize("path", ["a/%2e%2e/b", "a/%2E./b", "a/../b"])
def test_a_parent_segment_in_an_address_is_refused_however_it_is_written(path: str) -> None:
    with pytest.raises(ValueError, match="segment"):
        Remote.parse(f"https://git.test/{path}")


@pytest.mark.parametrize("name", [".x", "a/.b"])
def test_a_branch_whose_segment_begins_with_a_dot_is_refused(name: str) -> None:
    assert not is_branch_name(name)
