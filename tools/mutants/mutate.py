"""Small changes of meaning that can be made to a Python file, found in its syntax tree."""

from __future__ import annotations

import ast
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

__all__ = ["Mutant", "draw", "mutants_of"]

_SWAPPED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_LEAVES = (ast.Return, ast.Raise, ast.Continue, ast.Break)
_SAID = {"log", "logger", "warnings"}
"""Names whose methods only tell: nothing depends on what they are called with."""


@dataclass(frozen=True)
class Mutant:
    """One change: `start` and `end` are offsets in the bytes of the file, `after` is what stands there instead."""

    path: Path
    line: int
    start: int
    end: int
    before: str
    after: str

    def applied(self, source: bytes) -> bytes:
        return source[: self.start] + self.after.encode() + source[self.end :]

    def __str__(self) -> str:
        before, after = (" ".join(text.split()) for text in (self.before, self.after))
        return f"{before}  →  {after}"


def draw(paths: Sequence[Path], count: int, seed: int) -> list[Mutant]:
    """`count` mutants of the files, each mutant as likely as any other; the same for the same seed and files."""
    found = [mutant for path in sorted(paths) for mutant in mutants_of(path)]
    random.Random(seed).shuffle(found)
    return list(islice((mutant for mutant in found if _compiles(mutant)), count))


def mutants_of(path: Path) -> list[Mutant]:
    """Every mutant of a file. A rare one does not compile; `draw` leaves it out."""
    source = path.read_bytes()
    found = _Finder(path, source)
    found.visit(ast.parse(source))
    return found.mutants


def _compiles(mutant: Mutant) -> bool:
    try:
        compile(mutant.applied(mutant.path.read_bytes()), "mutant", "exec", dont_inherit=True)
    except SyntaxError:
        return False
    return True


class _Finder(ast.NodeVisitor):
    """Collects the mutants of a file. What is only said is left alone: annotations, log lines, texts of errors."""

    def __init__(self, path: Path, source: bytes) -> None:
        self.mutants: list[Mutant] = []
        self._path = path
        self._source = source
        self._starts = [0]
        for line in source.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))

    def visit_Compare(self, node: ast.Compare) -> None:
        for place, operator in enumerate(node.ops):
            changed = [*node.ops]
            changed[place] = _SWAPPED[type(operator)]()
            self._replace(node, ast.unparse(ast.Compare(node.left, changed, node.comparators)))
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        self._replace(node, f"({ast.unparse(ast.BoolOp(other, node.values))})")
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not):
            self._replace(node, f"({ast.unparse(node.operand)})")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self._replace(node, str(not node.value))
        elif isinstance(node.value, int):
            self._replace(node, str(node.value + 1))
        elif isinstance(node.value, float):
            self._replace(node, repr(node.value * 2 or 1.0))

    def visit_If(self, node: ast.If) -> None:
        if not node.orelse and isinstance(node.body[-1], _LEAVES):
            self._replace(node, "pass")
        self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        call = node.value.value if isinstance(node.value, ast.Await) else node.value
        if not isinstance(call, ast.Call) or _only_says(call):
            return
        self._replace(node, "pass")
        self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> None:
        """What an error says is no behaviour; whether it is raised is its guard's mutant."""

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Before Python 3.12 nothing inside has a place."""

    def visit_Assert(self, node: ast.Assert) -> None:
        """It is there for the type checker."""

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_arg(self, node: ast.arg) -> None:
        """A name and an annotation."""

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        for inner in (*node.decorator_list, node.args, *node.body):
            self.visit(inner)

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815 - the name is ast's

    def _replace(self, node: ast.expr | ast.stmt, after: str) -> None:
        if node.end_lineno is None or node.end_col_offset is None:
            return
        start = self._starts[node.lineno - 1] + node.col_offset
        end = self._starts[node.end_lineno - 1] + node.end_col_offset
        before = self._source[start:end].decode()
        self.mutants.append(Mutant(self._path, node.lineno, start, end, before, after))


def _only_says(call: ast.Call) -> bool:
    function = call.func
    return (
        isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name) and function.value.id in _SAID
    )
