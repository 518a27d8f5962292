"""Reading request bodies and headers: everything that is wrong becomes a 400 that says where."""

from __future__ import annotations

from typing import TypeVar

import pydantic
import structlog
from pydantic import BaseModel
from quart import request

from gastown.contract.errors import InvalidRequest, Issue
from gastown.contract.town import TownConfig
from gastown.control.context import Town

__all__ = ["adopt_town_config", "parse"]

log = structlog.get_logger()

ModelT = TypeVar("ModelT", bound=BaseModel)

CONFIG_HEADER = "X-Town-Config"


async def parse(model: type[ModelT]) -> ModelT:
    """The request's body as `model`; raises `InvalidRequest` naming each fault and its place."""
    content = await request.get_data(cache=False)
    try:
        return model.model_validate_json(content)
    except pydantic.ValidationError as error:
        raise InvalidRequest(
            [
                Issue(path=tuple(item["loc"]), message=_sentence(item["msg"]))
                for item in error.errors(include_input=False, include_context=False, include_url=False)
            ]
        ) from None


def _sentence(message: str) -> str:
    return message.removeprefix("Value error, ")


def adopt_town_config(town: Town) -> None:
    """Take the town config that this request brings; one that is not a JSON object is ignored with a warning."""
    header = request.headers.get(CONFIG_HEADER)
    if header is None:
        return
    try:
        config = TownConfig.model_validate_json(header)
    except pydantic.ValidationError as error:
        places = [".".join(str(part) for part in item["loc"]) for item in error.errors(include_input=False)]
        log.warning("town_config.ignored", problems=places or ["not a JSON object"])
        return
    if config != town.services.credentials.current.town:
        town.services.credentials.replace_town(config)
        log.info("town_config.replaced", generation=town.services.credentials.current.generation)
