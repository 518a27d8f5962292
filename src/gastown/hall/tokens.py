"""The hall's tokens: JWTs that name the town of their bearer, and what they are good for."""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import jwt
import jwt.types

from gastown.contract.identifiers import is_identifier
from gastown.contract.secret import Secret

__all__ = ["LIFETIME", "REFRESH_WINDOW", "InvalidToken", "Scope", "claimed_town", "mint", "verify"]

LIFETIME = timedelta(hours=8)
REFRESH_WINDOW = timedelta(hours=1)
"""For how long after its expiry a token still buys a new one."""

_ALGORITHM = "HS256"
_CLOCK_SKEW = timedelta(minutes=1)


class Scope(StrEnum):
    """What a token is good for, and for nothing else."""

    CONTAINER = "container"
    GIT = "git"


class InvalidToken(Exception):
    """The token is not valid, or no longer. The text never quotes it."""


def mint(secret: Secret, town_id: str, now: datetime, scope: Scope = Scope.CONTAINER) -> Secret:
    """A token for the container of `town_id`, good for eight hours from `now` (which must be aware)."""
    claims = {
        # Two tokens of one second must differ: a refresh with the same token would change nothing.
        "jti": secrets.token_hex(8),
        "sub": town_id,
        "scope": scope.value,
        "iat": int(now.timestamp()),
        "exp": int((now + LIFETIME).timestamp()),
    }
    return Secret(jwt.encode(claims, secret.reveal(), algorithm=_ALGORITHM))


def claimed_town(token: Secret) -> str:
    """The town that `token` says it is for. Not verified: it only tells whose secret to verify with."""
    claims = _decode(token, None)
    town = claims.get("sub")
    if not isinstance(town, str) or not is_identifier(town):
        raise InvalidToken("the token names no town")
    return town


def verify(
    token: Secret,
    secret: Secret,
    now: datetime,
    expired_by: timedelta = timedelta(),
    scope: Scope = Scope.CONTAINER,
) -> str:
    """The town whose container holds `token`; InvalidToken when it is not (or no longer) valid.

    `expired_by` is how long ago it may have expired.
    """
    claims = _decode(token, secret)
    town, issued, expires = claims.get("sub"), claims.get("iat"), claims.get("exp")
    if claims.get("scope") != scope.value or not isinstance(town, str):
        raise InvalidToken(
            "the token is not a container's" if scope is Scope.CONTAINER else "the token is not git's"
        )
    if not isinstance(issued, int) or not isinstance(expires, int):
        raise InvalidToken("the token says no time")
    moment = now.timestamp()
    if issued > moment + _CLOCK_SKEW.total_seconds():
        raise InvalidToken("the token is from the future")
    if moment >= expires + expired_by.total_seconds():
        raise InvalidToken("the token has expired")
    return town


def _decode(token: Secret, secret: Secret | None) -> dict[str, Any]:
    # The times are checked by the caller and not by PyJWT, which would ask the machine's clock and not ours.
    options: jwt.types.Options = {
        "verify_signature": secret is not None,
        "verify_exp": False,
        "verify_iat": False,
        "verify_nbf": False,
    }
    try:
        key = secret.reveal() if secret is not None else ""
        return jwt.decode(token.reveal(), key, algorithms=[_ALGORITHM], options=options)
    except (jwt.InvalidTokenError, ValueError, RecursionError):
        raise InvalidToken("the token is not one of this hall") from None
