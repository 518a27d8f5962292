"""Names that come from outside and end up in paths, URLs and environments.

An identifier becomes a directory name and a URL segment, so the alphabet is closed: nothing in it
needs quoting, and no value can leave the directory that it names.
"""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, StringConstraints, WithJsonSchema

__all__ = [
    "AgentId",
    "AttemptId",
    "CallbackUrl",
    "Identifier",
    "OrganizationId",
    "RigId",
    "TownId",
    "is_identifier",
    "printable",
]

MAX_LENGTH = 128
_ALPHABET = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._:@-]*\Z")


def is_identifier(value: str) -> bool:
    """Whether `value` may name an agent, a rig or a town."""
    return len(value) <= MAX_LENGTH and ".." not in value and _ALPHABET.match(value) is not None


def printable(value: str, limit: int = 80) -> str:
    """`value` made fit for an error sentence: bounded, and without control characters."""
    shown = value if len(value) <= limit else value[:limit] + "…"
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in shown)


def _check_address(value: str) -> str:
    try:
        parts = urlsplit(value)
        usable = bool(parts.hostname and parts.hostname.encode("idna")) and parts.port != 0
    except ValueError:  # a port that is no number, brackets that do not close, a name that is too long
        usable = False
    if not usable:
        raise ValueError("must be an http or https address that can be connected to")
    return value


def _check(value: str) -> str:
    if not is_identifier(value):
        raise ValueError(
            f"must be 1 to {MAX_LENGTH} characters of letters, digits and . _ : @ -, "
            "begin with a letter, a digit or _, and hold no '..'"
        )
    return value


Identifier = Annotated[
    str,
    StringConstraints(strict=True),
    AfterValidator(_check),
    # The same for readers of the API description; pydantic's own patterns cannot look ahead.
    WithJsonSchema(
        {"type": "string", "maxLength": MAX_LENGTH, "pattern": r"^(?!.*\.\.)[A-Za-z0-9_][A-Za-z0-9._:@-]*$"}
    ),
]
CallbackUrl = Annotated[
    str,
    StringConstraints(max_length=2000, pattern=r"^https?://[^\s\x00-\x1f\x7f]+$"),
    AfterValidator(_check_address),
]
"""An address that is called with a result."""
OrganizationId = Annotated[str, StringConstraints(max_length=200, pattern=r"^[\x21-\x7e]*$")]
"""An organisation at the gateway, which is named in a header; empty means none."""
AgentId = Identifier
AttemptId = Identifier
"""One attempt at an agent: a caller may choose it (`X-Attempt-Id`), or it is made here."""
RigId = Identifier
TownId = Identifier
