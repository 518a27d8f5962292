"""tools/mutants: which changes are drawn, and what is said about the tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.mutants.mutate import draw, mutants_of
from tools.mutants.run import Scratch
from tools.mutants.tests_of import Map


def changes(tmp_path: Path, source: str) -> set[str]:
    path = tmp_path / "code.py"
    path.write_text(source, "utf-8")
    return {mutant.applied(path.read_bytes()).decode() for mutant in mutants_of(path)}


@pytest.mark.parametrize(
    ("source", "changed"),
    [
        ("x = a < b", "x = a <= b"),
        ("x = a >= b", "x = a > b"),
        ("x = a is None", "x = a is not None"),
        ("x = a not in b", "x = a in b"),
        ("x = a < b < c", "x = a < b <= c"),
        ("x = a and b or c", "x = (a or b) or c"),
        ("x = not a", "x = (a)"),
        ("x = 1", "x = 2"),
        ("x = 0.5", "x = 1.0"),
        ("def f(x=True): ...", "def f(x=False): ..."),
        ("def f():\n    if a:\n        return 1\n    g = a", "def f():\n    pass\n    g = a"),
        ("async def f():\n    await g()", "async def f():\n    pass"),
        ("ä = 'ü'; x = a == b", "ä = 'ü'; x = a != b"),
    ],
)
def test_a_change_is_made_where_the_code_has_the_thing(tmp_path: Path, source: str, changed: str) -> None:
    """Bounds, negations, connectives, constants, guards and calls; the rest of the file stays byte for byte."""
    assert changed in changes(tmp_path, source)


@pytest.mark.parametrize(
    "source",
    [
        "'a docstring'",
        "log.info('started', port=1)",
        "raise ValueError(1)",
        "assert a == b",
        "def f(x: Literal[1]) -> Literal[2]: ...",
        "x: Literal[1]",
        "x = f'{a == b}'",
        "if a:\n    b = c\nelse:\n    b = d",
    ],
)
def test_what_is_only_said_is_not_changed(tmp_path: Path, source: str) -> None:
    """Texts, log lines, annotations and assertions have no mutants."""
    assert changes(tmp_path, source) == set()


def test_the_same_seed_draws_the_same_mutants(tmp_path: Path) -> None:
    """A sample can be drawn again, and another seed draws another."""
    path = tmp_path / "code.py"
    path.write_text("\n".join(f"x{n} = {n}" for n in range(100)), "utf-8")
    assert draw([path], 5, 1) == draw([path], 5, 1) != draw([path], 5, 2)


def test_the_tests_of_a_line_are_those_that_ran_it_the_shortest_first() -> None:
    """A line that ran at import has the tests of the whole file; one that none ran has none."""
    known = Map({"a.py": {1: ["", "t1"], 2: ["t1", "t2"], 3: ["t3"]}}, {"t1": 2.0, "t2": 1.0, "t3": 3.0})
    assert known.tests("a.py", 2) == ["t2", "t1"]
    assert known.tests("a.py", 1) == ["t2", "t1", "t3"]
    assert known.tests("a.py", 9) == known.tests("b.py", 1) == []


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Code with a test that notices a change of line 1, and not one of line 2."""
    root = tmp_path / "repository"
    (root / "src").mkdir(parents=True)
    (root / "src" / "code_under_test.py").write_text("x = 1\ny = 1\nwhile x == 3: pass\n")
    (root / "test_code.py").write_text(
        "def test_x():\n    import code_under_test\n    assert code_under_test.x == 1\n"
    )
    (root / "tools").symlink_to(Path(__file__).parents[2] / "tools")
    return root


@pytest.mark.parametrize(("line", "verdict"), [(1, "caught"), (2, "survived"), (3, "hang")])
def test_a_mutant_is_caught_survives_or_hangs(repository: Path, tmp_path: Path, line: int, verdict: str) -> None:
    """Told by the tests' end, and the copy is as before afterwards; the original was never touched."""
    folder = tmp_path / "scratch"
    (folder / "src").mkdir(parents=True)
    path = repository / "src" / "code_under_test.py"
    before = path.read_bytes()
    mutant = next(mutant for mutant in mutants_of(path) if mutant.line == line)
    seconds = 3.0 if verdict == "hang" else 60.0
    assert Scratch(repository, folder).verdict(mutant, ["test_code.py::test_x"], seconds) == verdict
    assert path.read_bytes() == (folder / "src" / "code_under_test.py").read_bytes() == before
