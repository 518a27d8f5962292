"""Logging: one JSON object a line on stderr, event names `noun.verb`, no credential in any of them."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Iterable, MutableMapping
from typing import Any, TextIO

import structlog

__all__ = ["configure", "redacted"]

_SHAPES = re.compile(
    r"eyJ[\w-]{5,}\.[\w-]+\.[\w-]*"  # a JWT
    r"|(?:gh[pousr]|github_pat|glpat)[_-][\w-]{10,}"  # GitHub's and GitLab's tokens
    r"|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"  # user and password in a URL
    r"|(?<=[Bb]earer )[\w.~+/=-]+"
    r"|(?<=[Bb]asic )[\w+/=-]+"
    r"|\bgt[bs]\.[\w.-]{10,}"  # an agent's bearer, a kilo server's password
)
_MASK = "[redacted]"
_SHORTEST = 6


def redacted(text: str, secrets: Iterable[str] = ()) -> str:
    """`text` without `secrets` and without anything that has the shape of a credential."""
    for secret in secrets:
        if len(secret) >= _SHORTEST:
            text = text.replace(secret, _MASK)
    return _SHAPES.sub(_MASK, text)


def configure(secrets: Callable[[], Iterable[str]], stream: TextIO | None = None) -> None:
    """Set structlog up for this process. `secrets` gives the values that are live when a line is written."""

    def redact(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        known = tuple(secrets())
        for key, value in event.items():
            event[key] = _clean(value, known)
        return event

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            redact,
            structlog.processors.JSONRenderer(sort_keys=False, default=repr),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(stream or sys.stderr),
        cache_logger_on_first_use=False,
    )


def _clean(value: Any, secrets: tuple[str, ...]) -> Any:
    if isinstance(value, str):
        return redacted(value, secrets)
    if isinstance(value, dict):
        return {
            redacted(key, secrets) if isinstance(key, str) else key: _clean(item, secrets)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean(item, secrets) for item in value]
    return value if isinstance(value, int | float | bool | None) else redacted(str(value), secrets)
