"""Secret texts: a type that can be read in one way only.

pydantic's `SecretStr` writes stars where the value belongs, so that a forgotten call sends a header of stars; it
compares with `==` of `str`, and pickles and shows its value through `vars()`. Here each of those raises.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, NoReturn, Self

from pydantic import BaseModel, BeforeValidator, GetJsonSchemaHandler, GetPydanticSchema, SerializationInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

__all__ = ["BearerToken", "Secret", "SecretMap", "credentials_among", "is_credential", "reveal_json", "reveal_map"]

_CREDENTIAL_NAME = re.compile(
    r"TOKEN|SECRET|PASS|PAT\Z|CREDENTIAL|COOKIE|PRIVATE|DSN"
    r"|AUTH(?!OR(?!I))"  # no AUTHOR, but AUTHORIZATION
    r"|(?<![A-Z])KEYS?(?![A-Z])"  # no MONKEY and no KEYBOARD
    r"|(?:ACCESS|ACCOUNT|API|APP|DEPLOY|ENCRYPTION|GPG|MASTER|SIGNING|SSH)KEYS?(?![A-Z])",
    re.IGNORECASE,
)
_RANDOM = re.compile(r"(?=.*\d)(?=.*[A-Za-z])[^\s/]{16,}", re.DOTALL)
_TO_A_HOLDER = object()
"""The serialisation context in which secrets are written. It is private to this module."""


class Secret:  # noqa: PLW1641 - a hash, where it is seen, tells of equality
    """A text that only `reveal()` returns.

    `repr` is a fixed mask. `str()`, formatting, pickling and JSON raise TypeError: what they made would be a leak,
    or a mask in the place of a credential. `==` takes the same time for every other secret of that length, and
    raises TypeError for a plain text, which could never be equal. There is no hash. An empty one is false.
    """

    __slots__ = ("__text",)

    def __init__(self, text: str) -> None:
        self.__text = text

    def reveal(self) -> str:
        """The text, for the place where it is used. tests/unit/test_secret.py lists all of them."""
        return self.__text

    def __bool__(self) -> bool:
        return bool(self.__text)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Secret):
            return hmac.compare_digest(_bytes(self.__text), _bytes(other.__text))
        if isinstance(other, str | bytes):
            raise TypeError("a secret is compared with a secret: Secret(text) == ...")
        return NotImplemented

    def __repr__(self) -> str:
        return "Secret(***)"

    def __str__(self) -> NoReturn:
        raise TypeError("a secret is no text: reveal() gives it out where it is used")

    def __format__(self, spec: str) -> NoReturn:
        raise TypeError("a secret is not formatted: reveal() gives it out where it is used")

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a secret is not pickled")

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: object) -> CoreSchema:
        return _schema(core_schema.str_schema())

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return _described(schema, handler)


def reveal_json(model: BaseModel, **options: Any) -> Any:
    """`model` as plain JSON values, its secrets with it, for a peer that holds them by right.

    `options` are those of `model_dump`. Without this, a model that holds a secret does not become JSON.
    """
    return model.model_dump(mode="json", context=_TO_A_HOLDER, **options)


def reveal_map(secrets: Mapping[str, Secret]) -> dict[str, str]:
    """Variables as a process gets them."""
    return {name: secret.reveal() for name, secret in secrets.items()}


def credentials_among(variables: Mapping[str, Secret]) -> Iterator[Secret]:
    """Those that the log must not show."""
    return (secret for name, secret in variables.items() if is_credential(name, secret))


def is_credential(name: str, secret: Secret) -> bool:
    """Whether a variable is a credential: by its name, or since it looks random. `production` is none."""
    return bool(_CREDENTIAL_NAME.search(name) or _RANDOM.fullmatch(secret.reveal()))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _schema(text: CoreSchema) -> CoreSchema:
    """Of a secret whose text is as the schema `text` says."""
    return core_schema.no_info_wrap_validator_function(
        _read,
        text,
        serialization=core_schema.plain_serializer_function_ser_schema(_write, info_arg=True),
    )


def _described(schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
    return {**handler(schema), "format": "password", "writeOnly": True}


def _read(given: object, check: Callable[[object], str]) -> Secret:
    return Secret(check(given.reveal() if isinstance(given, Secret) else given))


def _write(secret: Secret, info: SerializationInfo) -> Secret | str:
    """A secret among Python values stays one."""
    if not info.mode_is_json():
        return secret
    if info.context is not _TO_A_HOLDER:
        raise TypeError("a secret is not written as JSON: reveal_json() is for a peer that holds it by right")
    return secret.reveal()


def _only_strings(value: object) -> object:
    """Old orchestrators send null for variables that are not set; those are dropped."""
    if isinstance(value, dict):
        return {key: item for key, item in value.items() if item is not None}
    return value


SecretMap = Annotated[dict[str, Secret], BeforeValidator(_only_strings)]
"""Variables. Only their author knows which of them are credentials, so all are treated as such."""

BearerToken = Annotated[
    Secret,
    GetPydanticSchema(
        lambda _source, _handler: _schema(
            core_schema.str_schema(min_length=1, max_length=20_000, pattern=r"^[\x21-\x7e]+$")
        ),
        _described,
    ),
]
"""A token that fits into a header."""
