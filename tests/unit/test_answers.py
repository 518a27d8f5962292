"""Every answer is an allow-list: a model that names what may leave, and no name of a secret among it.

The control server's come from its table of routes, the hall's from the return types of its handlers, which mypy
checks against what they return.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
from pydantic import BaseModel
from quart import Response

from gastown.contract.agents import Role
from gastown.contract.errors import ControlError, ErrorBody, InvalidRequest, Issue, StartFailed
from gastown.contract.secret import Secret, SecretMap
from gastown.contract.wire import Wire
from gastown.contract.worker import WorkerRefusal
from gastown.control.app import ROUTES
from gastown.control.responses import fit_to_be_seen
from gastown.hall.api.answers import Answer
from gastown.hall.api.context import HallContext, StandIn
from gastown.hall.api.responses import Shown
from gastown.hall.app import create_app
from gastown.hall.user_api.table import USER_ROUTES
from gastown.logs import Redactor

HOUSE = Path(__file__).parents[2] / "src" / "gastown"
SECRETIVE = re.compile(
    r"token|passw|secret|authoriz|bearer|credential|ticket|cookie|key|(\A|_)pat(\Z|_)|env", re.IGNORECASE
)

LISTED = {
    "StreamTicket.ticket": "what the caller has come for: it opens one websocket, once",
    "MayorContext.kilocode_token": "the orchestrator gives the container its own",
    "MayorContext.github_token": "the same",
    "MayorContext.github_cli_pat": "the same",
    "MayorContext.gitlab_token": "the same",
    "MayorContext.env_vars": "the same",
    "Token.token": "a new one, for who shows the old one",
}
"""Fields with a name or the type of a secret, and why they may be in an answer."""

OPEN = {
    "AgentEvent.data": "what kilo and its agent say; the one who asks has come for it",
    "Bead.labels": "what agents have written for each other",
    "Bead.metadata": "the same",
    "Convoy.metadata": "the same",
    "RigAgent.checkpoint": "the same",
    "StoredRegistry.data": "the container's own, as it sent it",
}
"""Fields of any shape, and what is in them."""

OTHER_PROTOCOLS = {
    "gateway.models": "the stand-in speaks like the gateway, and knows nothing of the town",
    "gateway.chat_completions": "the same",
    "worker_api.get_snapshot": "a database, in bytes",
    "_described": "the description of the user API, in OpenAPI's own form",
}
"""Handlers of the hall whose answer is no model."""


def hall_handlers() -> dict[str, Any]:
    def now() -> datetime:
        return datetime(2030, 5, 1, tzinfo=UTC)

    stand_in = StandIn(token=Secret("stand-in"))
    context = HallContext(store=None, now=now, stand_in=stand_in)  # type: ignore[arg-type]
    return create_app(context).view_functions


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models inside a type, however deep in it."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from models_in(argument)


def whole(models: set[type[BaseModel]]) -> set[type[BaseModel]]:
    """The models and all that are in their fields."""
    found: set[type[BaseModel]] = set()
    waiting = set(models)
    while waiting:
        model = waiting.pop()
        found.add(model)
        inner = {part for field in model.model_fields.values() for part in models_in(field.annotation)}
        waiting |= inner - found
    return found


def mentions(annotation: Any, kind: Any) -> bool:
    return annotation is kind or any(mentions(argument, kind) for argument in get_args(annotation))


def control_answers() -> set[type[BaseModel]]:
    return {model for route in ROUTES for model in route.answers.values()} | {ErrorBody, WorkerRefusal}


def hall_answers() -> set[type[BaseModel]]:
    return {model for handler in hall_handlers().values() for model in models_in(answer_of(handler))}


def answer_of(handler: Any) -> Any:
    """What is inside a handler's `Answer[...]`; None for one that promises no model."""
    returned = get_type_hints(handler)["return"]
    return get_args(returned)[0] if get_origin(returned) is Answer else None


def fields() -> Iterator[tuple[str, str, Any]]:
    """Every field of every answer: its place in LISTED or OPEN, its name, its type."""
    for model in whole(control_answers() | hall_answers()):
        for name, field in model.model_fields.items():
            yield f"{model.__name__}.{name}", name, field.annotation


def is_secret(annotation: Any) -> bool:
    return mentions(annotation, Secret)


def test_no_field_of_an_answer_is_a_secret_or_is_called_like_one() -> None:
    found = {place for place, name, annotation in fields() if SECRETIVE.search(name) or is_secret(annotation)}
    assert found - LISTED.keys() == set()


def test_no_field_of_an_answer_takes_whatever_comes() -> None:
    found = {place for place, _, annotation in fields() if mentions(annotation, Any) or annotation is dict}
    assert found == OPEN.keys()


def test_nothing_is_listed_that_is_not_there() -> None:
    places = {place for place, _, _ in fields()}
    assert LISTED.keys() | OPEN.keys() <= places
    assert OTHER_PROTOCOLS.keys() <= hall_handlers().keys()


def test_no_request_is_echoed() -> None:
    bodies = {route.body for route in ROUTES if route.body is not None}
    assert bodies & whole(control_answers()) == set()


def test_every_handler_of_the_hall_promises_a_model_or_nothing() -> None:
    """The user API's are made by its table, whose rows name their models."""
    without = {name for name, handler in hall_handlers().items() if answer_of(handler) is None}
    in_the_table = {f"user_api.{route.handler.__name__}" for route in USER_ROUTES}
    assert without - in_the_table == OTHER_PROTOCOLS.keys()
    assert all(issubclass(route.answer, Shown | Wire) for route in USER_ROUTES)


@pytest.mark.parametrize("handler", hall_handlers().values(), ids=hall_handlers().keys())
def test_what_a_handler_of_the_hall_promises_is_made_of_models(handler: Any) -> None:
    promised = answer_of(handler)
    if promised in (None, NoneType):
        return
    parts = get_args(promised) or (promised,)
    assert all(issubclass(part, Shown | Wire) for part in parts)


@pytest.mark.parametrize("folder", ["control", "hall"])
def test_an_answer_is_made_only_where_models_become_answers(folder: str) -> None:
    """`jsonify`, `make_response` and a `Response` of one's own would go past the allow-lists."""
    makers = {"jsonify", "make_response", "Response"}
    found = {
        f"{folder}/{path.name}"
        for path in (HOUSE / folder).glob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in makers
    }
    expected = {
        "control": {"control/responses.py", "control/routes/probes.py"},  # metrics are a text
        "hall": {"hall/api/answers.py", "hall/gateway_stub.py", "hall/api/worker_api.py"},
    }
    assert found <= expected[folder]


def test_a_model_with_a_secret_does_not_become_an_answer_unseen() -> None:
    class Careless(Wire):
        tokens: SecretMap

    with pytest.raises(Exception, match="not written as JSON"):
        Careless.model_validate({"tokens": {"A": "hush"}}).model_dump_json()
    assert is_secret(Careless.model_fields["tokens"].annotation)


def test_an_error_that_would_say_more_than_the_contract_is_refused_where_it_is_made() -> None:
    with pytest.raises(ValueError, match="environment"):
        ControlError("A sentence", environment={"A": "b"})
    failed = StartFailed("A sentence", phase="spawn", status=401, error_type="APIError", action="Do it")
    assert failed.body.model_dump(exclude_none=True) == {
        "error": "A sentence",
        "phase": "spawn",
        "status": 401,
        "error_type": "APIError",
        "action": "Do it",
    }
    assert InvalidRequest([Issue(path=("a", 1), message="m")]).body.issues == (Issue(path=("a", 1), message="m"),)


def test_an_answer_is_a_response() -> None:
    assert issubclass(Answer, Response)


class Told(Wire):
    status: Literal["running"]
    role: Role = Role.POLECAT
    since_ms: int = 123456
    reasons: tuple[Literal["draining"] | None, ...] = ("draining",)
    sentences: dict[str, tuple[str, ...]]
    inner: Told | None = None


def test_a_secret_is_taken_out_of_sentences_and_nothing_else() -> None:
    redact = Redactor([Secret(word) for word in ("running", "polecat", "123456", "draining", "sentences")]).known
    sentences = {"running": ("it is running since 123456",)}
    told = Told(status="running", sentences=sentences, inner=Told(status="running", sentences={}))
    assert fit_to_be_seen(told, redact) == told.model_copy(
        update={"sentences": {"running": ("it is [redacted] since [redacted]",)}}
    )
