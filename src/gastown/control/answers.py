"""Wire models as responses."""

from __future__ import annotations

from pydantic import BaseModel
from quart import Response

from gastown.contract.events import EventPage
from gastown.control.context import town

__all__ = ["reply"]


def reply(model: BaseModel, status: int = 200, *, without_unset: bool = False) -> Response:
    """`model` as JSON. Only what the model names can leave, and of a sentence in it no secret that is live.

    What agents and kilo say for themselves, which is events, goes out as it is.
    """
    text = model.model_dump_json(by_alias=True, exclude_none=without_unset)
    if not isinstance(model, EventPage):
        text = town().redactor.now().known(text)
    return Response(text, status=status, content_type="application/json")
