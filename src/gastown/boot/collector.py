"""Python's garbage collector, kept from stopping everything while very many objects come that will stay.

A full collection looks at all objects: with ten thousand agents that takes half a second, in which nothing is
answered. And while their number grows Python makes one after the other.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["no_full_collections", "out_of_reach"]

_NEVER = 1_000_000_000


@contextmanager
def no_full_collections() -> Iterator[None]:
    """Only what is young is collected for the length of the block, which looks at some thousand objects."""
    young, middle, old = gc.get_threshold()
    gc.set_threshold(young, middle, _NEVER)
    try:
        yield
    finally:
        gc.set_threshold(young, middle, old)


@contextmanager
def out_of_reach() -> Iterator[None]:
    """No collection looks at what is there when the block begins, until its end; at what comes later each does.

    What of it is not referred to any more is freed at once, as ever, unless it refers to itself in a ring.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
