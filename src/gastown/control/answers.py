"""Wire models as responses."""

from __future__ import annotations

from pydantic import BaseModel
from quart import Response

__all__ = ["reply"]


def reply(model: BaseModel, status: int = 200, *, without_unset: bool = False) -> Response:
    """`model` as JSON. Only what the model names can leave."""
    text = model.model_dump_json(by_alias=True, exclude_none=without_unset)
    return Response(text, status=status, content_type="application/json")
