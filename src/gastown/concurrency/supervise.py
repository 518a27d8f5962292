"""Failures at boundaries: contained where they must not spread, and unwrapped where one is looked for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

__all__ = ["contain", "leaves"]


async def contain(work: Callable[[], Awaitable[object]], *, on_failure: Callable[[Exception], None]) -> None:
    """Await `work()`; an `Exception` out of it goes to `on_failure` and no further.

    Cancellation passes through untouched, and so does everything that is not an `Exception`. A group is handed
    over as it is: the caller logs all of it.
    """
    try:
        await work()
    except Exception as error:  # noqa: BLE001 - a boundary: any failure is turned into a record
        on_failure(error)


def leaves(error: BaseException) -> list[BaseException]:
    """The exceptions inside a group, however deep; a plain exception is its own only leaf."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for member in error.exceptions for leaf in leaves(member)]
    return [error]
