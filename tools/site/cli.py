"""The commands, from their argument parser."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from gastown.cli import build_parser
from tools.site.markdown import code, table

__all__ = ["commands", "options", "page"]


def commands() -> dict[str, tuple[argparse.ArgumentParser, str]]:
    """Each command's parser, and what it is for."""
    actions = build_parser()._actions  # noqa: SLF001 - argparse has no other way to ask
    sub = next(action for action in actions if isinstance(action, argparse._SubParsersAction))  # noqa: SLF001
    helps = {choice.dest: choice.help or "" for choice in sub._choices_actions}  # noqa: SLF001
    return {name: (parser, helps.get(name, "")) for name, parser in sub.choices.items()}


def options(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    """Each argument as one writes it, and what it means."""
    for action in parser._actions:  # noqa: SLF001
        if isinstance(action, argparse._HelpAction):  # noqa: SLF001
            continue
        value = "" if action.nargs == 0 else f" {action.metavar or action.dest.upper()}"
        spelling = ", ".join(action.option_strings) or str(action.metavar or action.dest)
        told = (action.help or "") % {"default": action.default, "prog": parser.prog}
        yield f"{spelling}{value if action.option_strings else ''}", told


def page() -> str:
    """The reference page."""
    found = commands()
    lines = [
        _HEAD,
        table(("Command", "What it does"), ((f"[`gastown {n}`](#gastown-{n})", t) for n, (_, t) in found.items())),
    ]
    for name, (parser, told) in found.items():
        lines.append(f"## gastown {name}\n")
        lines.append(f"{told[:1].upper()}{told[1:]}.\n")
        rows = [(code(spelling), meaning) for spelling, meaning in options(parser)]
        lines.append(f"```console\n$ gastown {name}{' [ARGUMENT …]' if rows else ''}\n```\n")
        if rows:
            lines.append(table(("Argument", "Meaning"), rows))
    return "\n".join(lines)


_HEAD = """\
# Commands

Exit codes: 0 well, 1 a failure, 2 a wrong call or setting, 130 Ctrl-C before the command had done what it is for
(a town that is up ends with 0). What went wrong is one line on stderr.
"""
