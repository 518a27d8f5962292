"""Which headers pass the broker, and which the broker sets itself."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["MOST_HEADER_BYTES", "Headers", "NotSendable", "for_agent", "for_upstream"]

Headers = list[tuple[bytes, bytes]]

MOST_HEADER_BYTES = 64 * 1024

_HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
_PUNCTUATION = re.compile(rb"[^a-z0-9-]")
_SENDABLE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?\Z")
_OURS = frozenset((b"host", b"authorization", b"cookie", b"expect", b"forwarded", b"accept-encoding"))
_IDENTITY = (b"x-gastown-", b"x-kilocode-organizationid", b"x-forwarded-", b"x-real-ip", b"x-town-config")


class NotSendable(ValueError):
    """A value of ours that no header can have. The message is the header's name."""


def for_upstream(headers: Headers, bearer: str, own: dict[str, str]) -> Headers:
    """An agent's headers as they go on: without what is the connection's, and with `own` for what is ours.

    A header with the bearer anywhere in its value is left out. Raises `NotSendable`.
    """
    kept = [
        (name, value)
        for name, value in _end_to_end(headers)
        if not _is_ours(name) and bearer.encode() not in value
    ]
    encodings = [value for name, value in headers if name.lower() == b"accept-encoding"]
    said = {"accept-encoding": encodings[0].decode("latin-1") if encodings else "identity", **own}
    for name, value in own.items():
        if not _SENDABLE.match(value):
            raise NotSendable(name)
    return kept + [(name.lower().encode(), value.encode("latin-1")) for name, value in said.items()]


def _is_ours(name: bytes) -> bool:
    """Whether an upstream may read a header of that name, in lower case, as one that the broker answers for.

    Many servers make one variable of `X-A` and `X_A`, and some of `X.A`, so each of them is the same name here.
    """
    plain = _PUNCTUATION.sub(b"-", name)
    return plain in _OURS or plain in _HOP_BY_HOP or plain.startswith(_IDENTITY)


def for_agent(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """An upstream's headers as the agent gets them. Cookies would be the town's, so they stay here."""
    return [(name, value) for name, value in _end_to_end(list(headers)) if name != b"set-cookie"]


def _end_to_end(headers: Headers) -> Headers:
    lower = [(name.lower(), value) for name, value in headers]
    named = {word.strip().lower() for name, value in lower if name == b"connection" for word in value.split(b",")}
    return [(name, value) for name, value in lower if name not in _HOP_BY_HOP and name not in named]
