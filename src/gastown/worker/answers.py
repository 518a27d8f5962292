"""How an answer of the worker or of the platform is read: bounded, as it was sent, and as far as it is usable.

A peer may be wrong, or another server may answer in its place. So no answer is read beyond a number of bytes or
uncompressed, no JSON is taken that is nested without end, and one bad entry of a list costs that entry only.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import httpx2
import pydantic
import trio

from gastown.concurrency.waiting import AT_ONCE

__all__ = ["MOST_JSON_BYTES", "Answer", "Unreadable", "problems", "send", "usable_entries"]

MOST_JSON_BYTES = 32 * 1024 * 1024
"""A registry holds the prompts of all agents; everything else is far smaller."""
_MOST_DEPTH = 100
"""Arrays and objects within each other. The contract has five; what is far deeper cannot be written again."""

Entry = TypeVar("Entry", bound=pydantic.BaseModel)


class Unreadable(ValueError):
    """An answer that cannot be used. The message repeats nothing of it: answers hold credentials."""


@dataclass(frozen=True)
class Answer:
    """Whatever was answered. `unread` says why there is no content, where there is none to be had."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    unread: str | None = None

    def content(self) -> bytes:
        """The body. Raises `Unreadable` when it was not read."""
        if self.unread is not None:
            raise Unreadable(self.unread)
        return self.body

    def json(self) -> Any:
        """The body's JSON, `{}` when it is empty. Raises `Unreadable`."""
        content = self.content()
        if not content:
            return {}
        try:
            found = json.loads(content, parse_constant=_no_number, parse_float=_finite)
        except (ValueError, RecursionError):  # the latter: brackets in brackets in brackets
            raise Unreadable("the answer is not JSON") from None
        if not _is_flat_enough(found):
            raise Unreadable(f"the answer is nested more than {_MOST_DEPTH} deep")
        return found


async def send(
    client: httpx2.AsyncClient,
    method: str,
    url: str,
    *,
    content: bytes | None,
    headers: Mapping[str, str],
    most_bytes: int = MOST_JSON_BYTES,
) -> Answer:
    """Ask, and read at most `most_bytes` of what comes back. Without a time-out: the deadline is the caller's.

    Raises what httpx2 raises where there is no answer. One that is too large is not read to its end; its status
    counts all the same.
    """
    # As it is: a small compressed answer could become a very large one.
    asking = {**headers, "Accept-Encoding": "identity"}
    async with client.stream(method, url, content=content, headers=asking, timeout=None) as answer:
        status, told = answer.status_code, answer.headers
        if told.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
            return Answer(status, told, b"", "the answer is compressed, which was not asked for")
        body = bytearray()
        async for chunk in answer.aiter_raw():
            body += chunk
            if len(body) > most_bytes:
                return Answer(status, told, b"", f"the answer has more than {most_bytes} bytes")
        return Answer(status, told, bytes(body))


async def usable_entries(
    rows: list[Any], model: type[Entry], skipped: Callable[[int, str], None]
) -> tuple[Entry, ...]:
    """Those of `rows` that are a `model`, in their order; `skipped` gets the index of each other one, and why.

    Other tasks have their turn meanwhile: there may be thousands of rows.
    """
    found: list[Entry] = []
    for index, row in enumerate(rows):
        if index % AT_ONCE == AT_ONCE - 1:
            await trio.lowlevel.checkpoint()
        try:
            found.append(model.model_validate(row))
        except pydantic.ValidationError as error:
            skipped(index, problems(error))
    return tuple(found)


def problems(error: pydantic.ValidationError) -> str:
    """What was wrong and where, without any input: inputs hold credentials."""
    return "; ".join(
        f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}"
        for item in error.errors(include_input=False, include_context=False, include_url=False)[:5]
    )


def _no_number(_: str) -> NoReturn:
    """NaN and Infinity: Python reads them, and JSON has none."""
    raise ValueError


def _finite(text: str) -> float:
    """A number such as 1e999 is JSON, but no float: Python would make an infinity of it."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def _is_flat_enough(value: Any) -> bool:
    """Whether arrays and objects are within each other at most `_MOST_DEPTH` deep. Without recursion."""
    level = [value]
    for _ in range(_MOST_DEPTH + 1):
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return True
    return False
