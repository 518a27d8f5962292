"""Reading request bodies and headers; every fault becomes a 400 that names its place."""

from __future__ import annotations

import json
from typing import TypeVar

import pydantic
import structlog
from pydantic import BaseModel
from quart import request

from gastown.contract.errors import InvalidRequest, Issue
from gastown.contract.town import CONFIG_HEADER, TownConfig
from gastown.control.context import Town

__all__ = ["adopt_town_config", "check_town", "event_id", "parse", "pass_gate"]

log = structlog.get_logger()

ModelT = TypeVar("ModelT", bound=BaseModel)


async def parse(model: type[ModelT], *, absent: ModelT | None = None) -> ModelT:
    """The request's body as `model`; raises `InvalidRequest` naming each fault and its place.

    `absent` stands for no body at all, where a route allows that.
    """
    content = await request.get_data(cache=False)
    if not content and absent is not None:
        return absent
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


def check_town(here: Town, town_id: str) -> None:
    """Raise `InvalidRequest` for a request that is another town's; a container that has no name takes any."""
    if here.town_id is not None and town_id != here.town_id:
        message = f"must be {here.town_id}, the town of this container"
        raise InvalidRequest([Issue(path=("townId",), message=message)])


def event_id(text: str | None) -> int | None:
    """The id in `?after=`; None when it is missing or cannot be an id."""
    return int(text) if text is not None and text.isdecimal() and len(text) < 20 else None


async def pass_gate(town: Town) -> int:
    """Wait for the hydration gate, then take the town config of this request: nothing changes before.

    Returns the generation of what the request brings: that of its arrival, so what comes while it waits is newer.
    A drain lets every request through at once; the handler has to ask the drain what may still happen.
    """
    given = town.services.credentials.next_generation()
    await town.gate.wait(town.drain.shutdown.requested)
    adopt_town_config(town, given)
    return given


def adopt_town_config(town: Town, given: int | None = None) -> None:
    """Take the town config that this request brings; one that is not a JSON object is ignored with a warning.

    `given` is the generation of the request, None for one that has just come.
    """
    header = request.headers.get(CONFIG_HEADER)
    if header is None:
        return
    config = _read_config(_decoded(header))
    if config is None:
        log.warning("town_config.ignored", problem="the header is not a JSON object")
        return
    if town.services.credentials.replace_town(config, given):
        log.info("town_config.replaced", generation=town.services.credentials.current.generation)


def _decoded(header: str) -> str:
    """The header's text. What serves it reads bytes as latin-1, and nearly everyone sends UTF-8."""
    try:
        return header.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return header


def _read_config(header: str) -> TownConfig | None:
    """The header's object; a key whose value has the wrong type is left out, with a warning that names it."""
    try:
        given = json.loads(header)
    except (ValueError, RecursionError):  # the latter: brackets nested too deeply
        return None
    if not isinstance(given, dict):
        return None
    try:
        return TownConfig.model_validate(given)
    except pydantic.ValidationError as error:
        wrong = {str(item["loc"][0]) for item in error.errors(include_input=False, include_url=False)}
        log.warning("town_config.keys_ignored", keys=sorted(wrong))
        return TownConfig.model_validate({key: value for key, value in given.items() if key not in wrong})
