"""The commands, from their argument parser."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from gastown.cli import build_parser
from tools.site.markdown import anchor, code, table

__all__ = ["commands", "options", "page"]


_Told = tuple[argparse.ArgumentParser, str]


def commands() -> dict[str, tuple[argparse.ArgumentParser, str]]:
    """Each command's parser, and what it is for."""
    return dict(_below(build_parser(), ""))


def _below(parser: argparse.ArgumentParser, before: str) -> Iterator[tuple[str, _Told]]:
    """The commands of a parser, and in place of one that has commands of its own, these."""
    for action in parser._actions:  # noqa: SLF001 - argparse has no other way to ask
        if not isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            continue
        helps = {choice.dest: choice.help or "" for choice in action._choices_actions}  # noqa: SLF001
        for name, inner in action.choices.items():
            deeper = dict(_below(inner, f"{before}{name} "))
            yield from deeper.items() if deeper else [(f"{before}{name}", (inner, helps.get(name, "")))]


def options(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    """Each argument as one writes it, and what it means."""
    for action in parser._actions:  # noqa: SLF001
        if isinstance(action, argparse._HelpAction) or action.help == argparse.SUPPRESS:  # noqa: SLF001
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
        table(("Command", "What it does"), ((_link(name), told) for name, (_, told) in found.items())),
    ]
    for name, (parser, told) in found.items():
        lines.append(f"## gastown {name}\n")
        lines.append(f"{told[:1].upper()}{told[1:]}.\n")
        rows = [(code(spelling), meaning) for spelling, meaning in options(parser)]
        lines.append(f"```console\n$ gastown {name}{' [ARGUMENT …]' if rows else ''}\n```\n")
        if rows:
            lines.append(table(("Argument", "Meaning"), rows))
    return "\n".join(lines)


def _link(name: str) -> str:
    return f"[`gastown {name}`](#{anchor(f'gastown {name}')})"


_HEAD = """\
# Commands

Exit codes: 0 well, 1 a failure, 2 a wrong call or setting, 3 no such town, rig, bead or agent, 4 it waits for a
person (`gastown why`), 130 Ctrl-C before the command had done what it is for (a town that is up ends with 0). What
went wrong is one line on stderr; with `--json` it is `{"error", "action"?}`.

The commands from `status` on ask a town that is up, over [the user API](user-api.md), and print with `--json` what
that answers.
"""
