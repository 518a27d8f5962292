"""Access to the control port: scopes, and the bearer of a request."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum

__all__ = ["Scope", "bearer_of"]


class Scope(IntEnum):
    """What a token of the control port allows; each scope includes the ones before it."""

    OPEN = 0
    """No token is needed."""
    READ = 1
    """See: every GET. Changes nothing."""
    ATTACH = 2
    """Take part: terminals, stream tickets, websockets."""
    CONTROL = 3
    """Everything."""

    @property
    def word(self) -> str:
        return self.name.lower()


def bearer_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The bearer of a request; empty when it has none, or more than one."""
    found = [value for name, value in headers if name.lower() == b"authorization"]
    if len(found) != 1:
        return ""
    scheme, _, token = found[0].decode("latin-1").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""
