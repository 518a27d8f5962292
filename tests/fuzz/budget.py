"""How long to look: the same few examples in each `make test`, many new ones in `make fuzz`."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

__all__ = ["FACTOR", "examples"]

FACTOR = int(os.environ.get("FUZZ_FACTOR", "1"))
"""`make fuzz` sets it. More than 1 is a search: at random, and what was found is tried again first."""


def examples(number: int) -> settings:
    """`number` examples of a property, times the factor. A slow machine is no failure."""
    return settings(
        max_examples=number * FACTOR,
        derandomize=FACTOR == 1,
        deadline=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )
