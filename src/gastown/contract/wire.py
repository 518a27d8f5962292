"""What all wire models share: camelCase keys, unknown keys ignored, times as ISO 8601 with `Z`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, PlainSerializer
from pydantic.alias_generators import to_camel

__all__ = ["Timestamp", "Wire", "iso"]


class Wire(BaseModel):
    """A message in camelCase. A newer peer may send more keys than we know; they are ignored."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,  # inputs carry credentials; an error must not
    )


def iso(moment: datetime) -> str:
    """`moment` as the contract writes times: UTC, milliseconds, `Z`."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


Timestamp = Annotated[AwareDatetime, PlainSerializer(iso, return_type=str, when_used="json")]
