"""The worker API: what the container asks of its orchestrator, and what the hall answers."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from inspect import getdoc
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel
from quart import Quart

from gastown.contract import worker as contract
from gastown.contract.events import ModelCall, UsageEvent
from gastown.hall.api.agent_api import agent_api
from gastown.hall.api.worker_api import worker_api
from tools.site.http_api import shapes_page
from tools.site.markdown import beneath, code, sentence, table

__all__ = ["Asked", "answered_by_hall", "asked_by_container", "page"]

_BASE = "/api/towns/{town_id}"
_SENDERS = ("_json", "_send", "_answer", "_once")


class Asked(NamedTuple):
    """A call of the container: the code's own sentence about it, and the file it is in."""

    method: str
    path: str
    meaning: str
    module: str

    @property
    def key(self) -> tuple[str, str]:
        return self.method, _blank(self.path)


def _blank(path: str) -> str:
    """A path whose parameters have no name."""
    return re.sub(r"\{[^}]*\}", "{}", path)


def answered_by_hall() -> dict[tuple[str, str], str]:
    """What the hall answers under `/api/towns/{town_id}`, by method and path, in its own words."""
    app = Quart("hall", static_folder=None)
    app.register_blueprint(worker_api)
    app.register_blueprint(agent_api)
    found: dict[tuple[str, str], str] = {}
    for rule in app.url_map.iter_rules():
        told = sentence(getdoc(app.view_functions[rule.endpoint]))
        for path in _spelled_out(rule.rule):
            for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
                found[method, _blank(path.removeprefix(_BASE))] = told
    return found


def _spelled_out(rule: str) -> Iterator[str]:
    """A rule of Werkzeug's with braces; `<any('a','b'):x>` is one path for each of its words."""
    choice = re.search(r"<any\(([^)]*)\):\w+>", rule)
    if choice is None:
        yield re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule)
        return
    for word in choice.group(1).split(","):
        yield from _spelled_out(rule.replace(choice.group(0), word.strip(" '\"")))


def asked_by_container(source: Path) -> list[Asked]:
    """Every call of the worker API that the container's code can make, sorted by its path."""
    found: dict[tuple[str, str], Asked] = {}
    for name in ("worker/client.py", "worker/reports.py", "agents/drain/town.py", "agents/drain/agent.py"):
        tree = ast.parse((source / name).read_text("utf-8"))
        for function in ast.walk(tree):
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            for method, path in _calls_of(function):
                asked = Asked(method, path, sentence(ast.get_docstring(function)), name)
                if asked.key not in found or (asked.meaning and not found[asked.key].meaning):
                    found[asked.key] = asked
    return sorted(found.values(), key=lambda asked: (asked.path, asked.method))


def _calls_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[tuple[str, str]]:
    texts = {
        node.targets[0].id: node.value
        for node in ast.walk(function)
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    for node in ast.walk(function):
        match node:
            case ast.Call(func=ast.Attribute(attr=name), args=[ast.Constant(value=str(method)), path, *_]) if (
                name in _SENDERS
            ):
                for text in _texts(path, texts):
                    yield method, text
            case ast.Call(func=ast.Name(id="_Report"), args=[sender, path, *_]):
                for text in _texts(path, texts):
                    yield "POST", _report(text, sender)
            case ast.Call(func=ast.Attribute(attr="report"), args=[ast.Constant(value=str(text)), _, sender]):
                yield "POST", _report(text, sender)
            case _:
                pass


def _report(path: str, sender: ast.expr) -> str:
    container = isinstance(sender, ast.Constant) and sender.value is None
    return f"/{path}" if container else f"/rigs/{{rig_id}}/agents/{{agent_id}}/{path}"


def _texts(node: ast.expr, known: dict[str, ast.expr]) -> Iterator[str]:
    """The texts that an expression may be; a value that only the run knows is its name in braces."""
    match node:
        case ast.Constant(value=str(text)):
            yield text
        case ast.JoinedStr(values=parts):
            yield "".join(
                part.value if isinstance(part, ast.Constant) and isinstance(part.value, str) else _name(part)
                for part in parts
            )
        case ast.Name(id=name) if name in known:
            yield from _texts(known[name], known)
        case ast.BinOp(left=left, right=ast.IfExp(body=then, orelse=otherwise)):
            for start in _texts(left, known):
                for tail in (then, otherwise):
                    yield from (start + text for text in _texts(tail, known))
        case _:
            pass


def _name(part: ast.expr) -> str:
    value = part.value if isinstance(part, ast.FormattedValue) else part
    match value:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return f"{{{name}}}"
        case _:
            return "{id}"


def page(source: Path) -> str:
    """The reference page."""
    hall, asked = answered_by_hall(), asked_by_container(source)
    models = [*(getattr(contract, name) for name in contract.__all__), ModelCall, UsageEvent]
    shapes = {
        name: schema
        for model in models
        if isinstance(model, type) and issubclass(model, BaseModel)
        for name, schema in _own_and_inner(model)
    }
    lines = [_HEAD]
    for title, prefix, told in _PARTS:
        members = [call for call in asked if call.path.startswith(prefix)]
        asked = [call for call in asked if call not in members]
        rows = (_row(call, prefix, hall) for call in members)
        lines += [f"## {title}\n", f"{told}\n", table(("Call", "What for"), rows)]
    return "\n".join([*lines, _AFTER, "## Shapes\n", shapes_page(shapes)])


def _row(asked: Asked, prefix: str, hall: dict[tuple[str, str], str]) -> tuple[str, str]:
    answered = hall.get(asked.key)
    call = code(f"{asked.method} {asked.path.removeprefix(prefix)}")
    return call, beneath(asked.meaning, f"The hall: {answered}" if answered else "")


_AGENT = "/rigs/{rig_id}/agents/{agent_id}"
_PARTS = (
    ("Of an agent", _AGENT, f"Below `{_AGENT}`."),
    ("Of a rig", "/rigs/{rig_id}", "Below `/rigs/{rig_id}`."),
    ("Of the container", "", "At the top."),
)


def _own_and_inner(model: type[BaseModel]) -> Iterator[tuple[str, dict[str, object]]]:
    schema = model.model_json_schema(by_alias=True)
    inner = schema.pop("$defs", {})
    yield model.__name__, schema
    yield from ((name.lstrip("_"), part) for name, part in inner.items())


_HEAD = """\
# Worker API

What a container asks of its orchestrator, at `{GASTOWN_API_URL}/api/towns/{GASTOWN_TOWN_ID}`.
A program that answers these calls can run a town; the *hall* is the orchestrator of one machine and
answers all of them.

Every call has `Authorization: Bearer <container token>`, and those for an agent `X-Gastown-Agent-Id` and
`X-Gastown-Rig-Id`.
A 401 makes the container renew its token once, and ask again.
"""

_AFTER = """\
An event is `{"agent_id", "event_type", "data", "attemptId"}`. Most types are kilo's own, as it sent them. The
control server makes `agent.status` (`status`, `reason`), `agent.turn_taken_up` and `git.push_refused` (`reason`),
`agent.receipt` (what became of the directory of an agent that ended: `commit`, `pushed`, `rescued`, `unsaved`,
`lost`),
`agent.role_unknown` (`role`, `nearest`),
`agent.variables_dropped` (`names`: custom variables that it does not get, with the reason of each),
`agent.ask_answered` (`kind`, `permission`, `patterns`, `reply`: what kilo asked a person for, and what it was
answered by rule), `agent.project_config_ignored` (`files`: a repository's configuration for kilo, which does not
count), `agent.usage`, whose data is a [`UsageEvent`](#usageevent), and `agent.model_call`, whose data is a
[`ModelCall`](#modelcall).

Beside these there are the calls of [the agents' tools](tools.md), and one that goes elsewhere:
`POST {KILO_CLOUD_URL}/api/gastown/git-credentials` asks a platform integration for a git login.

What does not arrive is sent again with growing pauses, in its order: events, reports, the registry. Only a
refusal (a 4xx that is about the call itself) ends that. [What is lost when](../explanation/what-is-lost.md) says
for how long.
"""
