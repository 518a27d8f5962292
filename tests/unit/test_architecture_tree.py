"""The tree of tasks as text and back; that it is the real one: test_docs.py."""

from __future__ import annotations

import pytest

from tools.site.tree import Node, between_marks, draw_tree_of, parse_tree, read_tree, text_of

TREE = Node("town", "", [Node("roster", "A roster", [Node("agent …", ""), Node("sink", "")]), Node("broker", "")])
BEGIN, END = "<!-- recorded by make architecture -->", "<!-- end of the record -->"
PAGE = f"before\n\n{BEGIN}\n\n```text\nold\n```\n\n{END}\n\nafter"


def test_a_tree_that_was_written_is_read_again() -> None:
    """Names, notes and depth survive the way through text."""
    assert parse_tree(text_of(TREE)) == TREE


def test_a_record_replaces_the_one_before_it() -> None:
    """The text around the marks stays, and so do the marks."""
    page = between_marks(PAGE, text_of(TREE))
    assert read_tree(page) == TREE
    assert between_marks(page, "old\n") == PAGE


def test_the_site_shows_a_picture_where_the_page_has_text() -> None:
    """On the site the record is a drawn tree; a page without one stays as it is."""
    drawn = draw_tree_of(between_marks(PAGE, text_of(TREE)))
    assert '<div class="tree">' in drawn
    assert "```" not in drawn
    assert draw_tree_of("no tree") == "no tree"


def test_a_page_without_marks_is_an_error() -> None:
    """A record that has no place is not dropped in silence."""
    with pytest.raises(ValueError, match="no place"):
        between_marks("no tree", "town\n")
