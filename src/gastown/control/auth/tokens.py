"""The tokens of the control port."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Mapping

from gastown.contract.access import Scope
from gastown.contract.secret import Secret

__all__ = ["Tokens"]


class Tokens:
    """The scope of each bearer token. False when there is none at all: then every caller may do everything.

    Only digests are kept and compared, under a key of this process and all of them each time: the time of
    an answer says nothing about a token, not even its length or which one it was.
    """

    def __init__(self, tokens: Mapping[Scope, Secret]) -> None:
        self._key = secrets.token_bytes(32)
        self._digests = tuple((scope, self._digest(token.reveal())) for scope, token in tokens.items())

    def __bool__(self) -> bool:
        return bool(self._digests)

    def scope_of(self, bearer: str) -> Scope | None:
        """What `bearer` allows; None when it is no token of ours."""
        shown, found = self._digest(bearer), None
        for scope, known in self._digests:
            if hmac.compare_digest(shown, known):
                found = scope
        return found

    def _digest(self, text: str) -> bytes:
        return hmac.digest(self._key, text.encode("utf-8", "surrogatepass"), "sha256")
