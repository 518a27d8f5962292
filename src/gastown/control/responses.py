"""Wire models as responses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel
from quart import Response

from gastown.contract.events import EventPage
from gastown.control.context import town

__all__ = ["fit_to_be_seen", "reply"]

_Model = TypeVar("_Model", bound=BaseModel)


def reply(model: BaseModel, status: int = 200, *, without_unset: bool = False) -> Response:
    """`model` as JSON: only the fields of the model, with live secrets redacted from its texts.

    Events, which are the words of agents and of kilo, are sent as they are.
    """
    text = model.model_dump_json(by_alias=True, exclude_none=without_unset)
    redact = town().redactor.now().known
    if not isinstance(model, EventPage) and redact(text) != text:
        text = fit_to_be_seen(model, redact).model_dump_json(by_alias=True, exclude_none=without_unset)
    return Response(text, status=status, content_type="application/json")


def fit_to_be_seen(model: _Model, redact: Callable[[str], str]) -> _Model:
    """`model` with its texts redacted: its keys and numbers, and the words of its enums and literals, stay.

    A variable may have a value such as `running` or `123456`, and the answer still has to be one.
    """
    fields = type(model).model_fields
    return model.model_copy(
        update={
            name: _seen(value, frozenset(_words(fields[name].annotation)), redact)
            for name, value in model
            if name in fields
        }
    )


def _seen(value: Any, words: frozenset[Any], redact: Callable[[str], str]) -> Any:
    if isinstance(value, BaseModel):
        return fit_to_be_seen(value, redact)
    if isinstance(value, str):
        return value if isinstance(value, Enum) or value in words else redact(value)
    if isinstance(value, dict):
        return {key: _seen(item, words, redact) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_seen(item, words, redact) for item in value)
    return value


def _words(annotation: Any) -> Iterator[Any]:
    """The values of the literals in a type."""
    for argument in get_args(annotation):
        if get_origin(annotation) is Literal:
            yield argument
        else:
            yield from _words(argument)
