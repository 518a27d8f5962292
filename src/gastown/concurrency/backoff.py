"""How long to wait before the next try."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

__all__ = ["delays"]


def delays(first: float, most: float, *, random: Random | None = None) -> Iterator[float]:
    """Seconds to wait, endlessly: doubling from `first` up to `most`, each drawn from the upper half.

    The jitter keeps 500 containers from calling a worker in the same instant in which it has come back.
    """
    rng = random or Random()  # noqa: S311 - jitter, not a secret
    ceiling = first
    while True:
        yield ceiling * (0.5 + rng.random() / 2)
        ceiling = min(most, ceiling * 2)
