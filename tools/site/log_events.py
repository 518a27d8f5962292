"""Every log event that the code can write, found in its syntax tree, and what each one means."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TypeAlias

from tools.site.markdown import beneath, code, table

__all__ = ["CATALOGUE", "LogEvent", "Unreadable", "events_of", "meanings", "page"]

CATALOGUE = Path(__file__).with_name("log-events.toml")
LEVELS = ("debug", "info", "warning", "error", "exception", "critical")
_NOT_FIELDS = {"exc_info"}

_Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef
_Calls: TypeAlias = "list[tuple[_Function | None, ast.Call]]"


class Unreadable(Exception):
    """A call that writes to the log, and whose event cannot be told from the code."""


@dataclass
class LogEvent:
    """`open_ended`: besides `fields` there are some that only the run knows."""

    name: str
    levels: set[str] = field(default_factory=set)
    fields: set[str] = field(default_factory=set)
    modules: set[str] = field(default_factory=set)
    open_ended: bool = False


@dataclass(frozen=True)
class _Call:
    """A call of a log method inside a function. `levels`: an alias may stand for several."""

    node: ast.Call
    levels: tuple[str, ...]
    function: _Function | None


def events_of(source: Path) -> dict[str, LogEvent]:
    """The events of every module below `source`, by name. Raises `Unreadable` where one cannot be told."""
    modules = {
        path.relative_to(source).as_posix(): list(_calls(ast.parse(path.read_text("utf-8"))))
        for path in sorted(source.rglob("*.py"))
    }
    events: dict[str, LogEvent] = {}
    for module, calls in modules.items():
        for call in _log_calls(calls):
            for name, more, call_module in _named(call, module, modules):
                event = events.setdefault(name, LogEvent(name))
                event.levels |= set(call.levels)
                event.fields |= ({k.arg for k in call.node.keywords if k.arg} | more) - _NOT_FIELDS
                event.modules.add(call_module)
                event.open_ended |= not more and any(k.arg is None for k in call.node.keywords)
    return dict(sorted(events.items()))


def _log_calls(calls: _Calls) -> Iterator[_Call]:
    for function, node in calls:
        match node.func:
            case ast.Attribute(value=ast.Name(id="log"), attr=level) if level in LEVELS:
                yield _Call(node, (_plain(level),), function)
            case ast.Name(id="partial"):
                yield from _handed_on(node, function)
            case ast.Name(id=name) if function is not None and (levels := _aliases(function).get(name)):
                yield _Call(node, levels, function)
            case _:
                pass


def _handed_on(node: ast.Call, function: _Function | None) -> Iterator[_Call]:
    """`partial(log.info, "a.b", key=1)`: a call that other code makes."""
    match node.args:
        case [ast.Attribute(value=ast.Name(id="log"), attr=level), *rest] if level in LEVELS:
            yield _Call(ast.Call(node.func, rest, node.keywords), (_plain(level),), function)
        case _:
            pass


def _calls(tree: ast.Module) -> Iterator[tuple[_Function | None, ast.Call]]:
    """Every call, with the innermost function that it stands in."""
    waiting: list[tuple[ast.AST, _Function | None]] = [(tree, None)]
    while waiting:
        node, inside = waiting.pop()
        if isinstance(node, ast.Call):
            yield inside, node
        own = node if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else inside
        waiting += ((child, own) for child in ast.iter_child_nodes(node))


@cache
def _aliases(function: ast.AST) -> dict[str, tuple[str, ...]]:
    """`write = log.debug if … else log.info`: the levels that a local name stands for."""
    found: dict[str, tuple[str, ...]] = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            levels = tuple(
                _plain(part.attr)
                for part in ast.walk(node.value)
                if isinstance(part, ast.Attribute)
                and part.attr in LEVELS
                and isinstance(part.value, ast.Name)
                and part.value.id == "log"
            )
            if levels and not isinstance(node.value, ast.Call):
                found[node.targets[0].id] = levels
    return found


def _plain(level: str) -> str:
    return "error" if level == "exception" else level


def _named(call: _Call, module: str, modules: dict[str, _Calls]) -> Iterator[tuple[str, set[str], str]]:
    """The event's name, fields that its caller adds, and the module that names it."""
    what = call.node.args[0] if call.node.args else None
    match what:
        case ast.Constant(value=str(name)):
            yield name, set(), module
        case ast.Name(id=parameter) if call.function is not None and parameter in _parameters(call.function):
            yield from _from_callers(call.function, parameter, modules)
        case _:
            line = getattr(call.node, "lineno", "a partial")
            raise Unreadable(f"{module}:{line}: the event is no literal")


def _parameters(function: _Function) -> list[str]:
    names = [argument.arg for argument in function.args.args]
    return names[1:] if names[:1] in (["self"], ["cls"]) else names


def _from_callers(
    function: _Function, parameter: str, modules: dict[str, _Calls]
) -> Iterator[tuple[str, set[str], str]]:
    """A function that is given the event's name: its callers have the literal."""
    place = _parameters(function).index(parameter)
    for module, calls in modules.items():
        for _, node in calls:
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
            if name != function.name or len(node.args) <= place:
                continue
            match node.args[place]:
                case ast.Constant(value=str(event)) if "." in event:
                    keys = {
                        key.value
                        for argument in node.args
                        if isinstance(argument, ast.Dict)
                        for key in argument.keys
                        if isinstance(key, ast.Constant) and isinstance(key.value, str)
                    }
                    yield event, keys, module
                case _:
                    pass


def meanings() -> dict[str, str]:
    """The catalogue: what each event means, in one line."""
    found: dict[str, str] = tomllib.loads(CATALOGUE.read_text("utf-8"))
    return found


def page(source: Path) -> str:
    """The reference page."""
    told, events = meanings(), events_of(source)
    groups: dict[str, list[LogEvent]] = {}
    for event in events.values():
        groups.setdefault(event.name.partition(".")[0], []).append(event)
    lines = [_HEAD.format(count=len(events))]
    for noun, members in groups.items():
        lines.append(f"## {noun}\n")
        lines.append(table(("Event", "Meaning"), (_row(event, told) for event in members)))
    return "\n".join(lines)


def _row(event: LogEvent, told: dict[str, str]) -> tuple[str, str]:
    levels = " or ".join(sorted(event.levels, key=LEVELS.index))
    fields = [code(name) for name in sorted(event.fields)] + ["…"] * event.open_ended
    details = [", ".join(fields)] if fields else []
    details.append(", ".join(sorted(event.modules)))
    return beneath(code(event.name), levels), beneath(told.get(event.name, ""), " · ".join(details))


_HEAD = """\
# Log events

The container writes one JSON object a line on stderr: `event`, `level`, `timestamp`, and the fields below.
Inside a request there is `request_id`, too. A secret is in none of the {count} events.

`info` is what happens. `warning` is what an operator may want to know. `error` is a bug, or a server that must not
be used. `debug` is not written.

```console title="What became of one agent"
$ jq -c 'select(.agent_id == "polecat-1")' container.log
```
"""
