"""How the house is laid out: which room may import which, and what may be used only where.

A room is a package or module right below `gastown`. Every rule is a row of a table; every import counts, also
those inside a function or below `if TYPE_CHECKING`. An empty or missing room keeps every rule.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

REPOSITORY = Path(__file__).parents[2]
SRC = REPOSITORY / "src"
HOUSE = SRC / "gastown"

# room: the rooms it may import, besides itself and the version in gastown/__init__.py.
SIDE_BY_SIDE = {"kilo", "git", "worker", "broker"}
SETTLED = {"contract", "settings", "logs", "metrics", "isolation", "concurrency", "asgi"}
MAY_IMPORT: dict[str, set[str]] = {
    "__init__": set(),
    "contract": set(),
    "inherited": set(),
    "settings": {"contract", "inherited"},
    "log_sink": set(),
    "logs": {"contract", "log_sink"},
    "metrics": {"contract"},
    "isolation": {"contract"},
    "concurrency": {"contract", "settings", "logs", "metrics", "isolation"},
    "asgi": {"contract", "concurrency"},
    **dict.fromkeys(sorted(SIDE_BY_SIDE), SETTLED),
    "agents": SETTLED | SIDE_BY_SIDE,
    "boot": SETTLED | SIDE_BY_SIDE | {"agents"},
    "control": SETTLED | SIDE_BY_SIDE | {"agents", "boot"},
    "assembly": SETTLED | SIDE_BY_SIDE | {"agents", "boot", "control"},
    "main": SETTLED | SIDE_BY_SIDE | {"agents", "boot", "control", "assembly"},
    "hall": {"contract", "isolation", "concurrency", "asgi", "log_sink", "logs"},
    "cli": SETTLED | SIDE_BY_SIDE | {"agents", "boot", "control", "main", "hall"},
    "__main__": {"cli"},
    # For tests alone: nothing of the program imports it, and it may use all of the program.
    "testing": SETTLED | SIDE_BY_SIDE | {"agents", "boot", "control", "assembly", "main", "hall"},
}

# The same inside the hall: its folders and modules, and which of them each may import.
HALL = HOUSE / "hall"
IN_THE_HALL: dict[str, set[str]] = {
    "__init__": set(),
    "prompts": set(),
    "domain": {"prompts"},
    "reconcile": {"domain"},
    "server": set(),
    "lock": set(),
    "tokens": set(),
    "control_client": set(),
    "store": {"domain", "reconcile"},
    "stand_in": {"prompts"},
    "demo": set(),
    "drivers": {"domain", "server", "control_client"},
    "folders": set(),
    "places": {"domain", "folders"},
    "git_http": {"domain", "reconcile", "store", "tokens", "folders"},
    "api": {"domain", "reconcile", "control_client", "store", "tokens", "stand_in", "git_http"},
    "user_api": {"domain", "places", "reconcile", "control_client", "store", "api"},
    "gateway_stub": {"domain", "api", "stand_in"},
    "app": {"api", "user_api", "gateway_stub"},
    "hall": {
        "domain",
        "server",
        "lock",
        "tokens",
        "control_client",
        "store",
        "stand_in",
        "git_http",
        "api",
        "app",
    },
    "dispatch": {"prompts", "domain", "reconcile", "control_client", "store", "hall"},
    "cli": {
        "domain",
        "reconcile",
        "server",
        "lock",
        "tokens",
        "control_client",
        "store",
        "stand_in",
        "demo",
        "drivers",
        "folders",
        "places",
        "api",
        "app",
        "hall",
        "dispatch",
    },
}
# The domain and the reconciler are pure: of the house they may import the contract alone, and beside it these.
THE_DOMAIN_MAY_USE = {
    "__future__",
    "collections",
    "contextlib",
    "dataclasses",
    "datetime",
    "enum",
    "types",
    "typing",
    "zlib",
    "gastown",
}

# name: the files and folders below gastown/ that may use it. A name covers all that is inside it.
ONLY_IN: dict[str, tuple[str, ...]] = {
    "quart": ("control/", "hall/api/", "hall/user_api/", "hall/gateway_stub.py", "testing/"),
    "quart_schema": ("control/",),
    "quart_trio": ("control/", "hall/api/", "testing/"),
    "httpx2": (
        "testing/",
        "kilo/client.py",
        "kilo/terminal.py",
        "worker/",
        "broker/",
        "hall/control_client.py",
        "assembly.py",
        "main.py",
    ),
    # In kilo/ only the client that knows the server's password may speak to it.
    "httpx2.AsyncClient": (
        "testing/",
        "kilo/client.py",
        "worker/",
        "broker/",
        "hall/control_client.py",
        "assembly.py",
    ),
    # hypercorn's private parts.
    "hypercorn.app_wrappers": ("asgi/hypercorn_seams.py",),
    "hypercorn.protocol": ("asgi/hypercorn_seams.py",),
    "hypercorn.trio": ("asgi/hypercorn_seams.py",),
    "sqlite3": ("testing/", "hall/store/lane.py", "worker/snapshots/database.py"),
    "sqlalchemy": ("testing/", "hall/store/"),
    "alembic": ("hall/store/migrations/",),
    # The credential helper is a program of its own that git runs.
    "os.environ": ("settings.py", "cli.py", "git/credential_helper.py", "testing/users.py"),
    "os.environb": ("settings.py", "cli.py"),
    "os.getenv": ("settings.py", "cli.py"),
    "os.putenv": (),
    "os.unsetenv": (),
    "os.chdir": (),
    "os.fchdir": (),
    "contextlib.chdir": (),
    # A town runs without what tests bring.
    "pytest": ("testing/",),
    "pytest_trio": ("testing/",),
    "trio_typing": (),
    "asyncio": (),
    "importlib.import_module": (),  # the arrows below could not see it
}

NAMES_THAT_SAY_NOTHING = {"utils", "helpers", "misc"}
MOST_LINES_OF_A_FILE = 450
MOST_LINES_OF_A_FUNCTION = 40
MOST_FILES_OF_A_FOLDER = 15


class Use(NamedTuple):
    """A dotted name that a file imports, or reaches through a name that an import binds."""

    path: Path
    line: int
    name: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(REPOSITORY)}:{self.line} uses {self.name}"


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (REPOSITORY / folder).rglob("*.py"))


def imports(tree: ast.Module, package: str) -> Iterator[tuple[int, str, str]]:
    """Line, bound name and full dotted name of each import; `package` makes the relative ones absolute."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.asname or alias.name, alias.name
                if not alias.asname:  # `import a.b` binds `a`
                    top = alias.name.partition(".")[0]
                    yield node.lineno, top, top
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: 1 - node.level or None] if node.level else []
            for alias in node.names:
                full = ".".join([*above, *filter(None, [node.module]), alias.name])
                yield node.lineno, alias.asname or alias.name, full


def dotted(node: ast.expr) -> str:
    """`a.b.c` of an attribute chain that starts at a name, else the empty string."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (before := dotted(node.value)):
        return f"{before}.{node.attr}"
    return ""


def names_used(source: str, package: str) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of what `source`, a module of `package`, imports or reaches so."""
    tree = ast.parse(source)
    bound: dict[str, str] = {}
    for line, local, full in imports(tree, package):
        bound[local] = full
        yield line, full
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            first, _, rest = dotted(node).partition(".")
            if first in bound:
                yield node.lineno, f"{bound[first]}.{rest}"


@cache
def uses(path: Path) -> list[Use]:
    package = ".".join(path.relative_to(SRC).parts[:-1])
    return [Use(path, line, name) for line, name in names_used(path.read_text("utf-8"), package)]


def room_of(path: Path) -> str:
    return path.relative_to(HOUSE).with_suffix("").parts[0]


def room_named(name: str) -> str | None:
    """The room that `name` leads to: None outside the house, `__init__` for `gastown.__version__`."""
    top, _, rest = name.partition(".")
    if top != "gastown":
        return None
    first = rest.partition(".")[0]
    if first in MAY_IMPORT or (HOUSE / first).is_dir() or (HOUSE / f"{first}.py").is_file():
        return first or "__init__"
    return "__init__"


def is_inside(name: str, outer: str) -> bool:
    return name == outer or name.startswith(f"{outer}.")


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("import gastown.kilo.pool", "gastown.kilo.pool"),
        ("from gastown import kilo", "gastown.kilo"),
        ("from gastown.kilo import pool as p", "gastown.kilo.pool"),
        ("from . import roster", "gastown.agents.roster"),
        ("from ..kilo.pool import Pool", "gastown.kilo.pool.Pool"),
        ("from .. import kilo", "gastown.kilo"),
        ("def late():\n    import httpx2", "httpx2"),
        ("if TYPE_CHECKING:\n    from gastown.control import app", "gastown.control.app"),
        ("import os\nhome = os.environ['HOME']", "os.environ"),
        ("import os as system\nsystem.getenv('HOME')", "os.getenv"),
        ("from os import environ", "os.environ"),
        ("import os.path\nos.chdir('/')", "os.chdir"),
    ],
)
def test_no_way_to_import_is_overlooked(source: str, name: str) -> None:
    """Absolute, relative, renamed, late and type-only imports are all seen, and attributes of modules."""
    assert name in [used for _, used in names_used(source, "gastown.agents")]


def test_every_room_is_on_the_plan() -> None:
    """A new package or module below gastown gets a row in MAY_IMPORT."""
    assert {room_of(path) for path in python_files("src/gastown")} - MAY_IMPORT.keys() == set()


def test_the_plan_has_no_circle() -> None:
    """Each room can be built after all that it may import."""
    built: set[str] = set()
    waiting = {room: allowed - {room} for room, allowed in MAY_IMPORT.items()}
    while ready := {room for room, allowed in waiting.items() if allowed <= built}:
        built |= ready
        waiting = {room: allowed for room, allowed in waiting.items() if room not in built}
    assert waiting == {}


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_rooms_below_it(room: str) -> None:
    """The arrows of the plan: nothing imports a room that stands above or beside it."""
    allowed = MAY_IMPORT[room] | {room, "__init__", None}
    files = [path for path in python_files("src/gastown") if room_of(path) == room]
    strays = [str(use) for path in files for use in uses(path) if room_named(use.name) not in allowed]
    assert strays == []


def test_every_room_of_the_hall_is_on_its_plan() -> None:
    """A new folder or module of the hall gets a row in IN_THE_HALL."""
    rooms = {path.relative_to(HALL).with_suffix("").parts[0] for path in HALL.rglob("*.py")}
    assert rooms - IN_THE_HALL.keys() == set()


def test_the_plan_of_the_hall_has_no_circle() -> None:
    """The hall's rows are written from the bottom up: each names only rows above it in the table."""
    built: set[str] = set()
    for room, allowed in IN_THE_HALL.items():
        assert allowed <= built, room
        built.add(room)


@pytest.mark.parametrize("room", IN_THE_HALL)
def test_a_room_of_the_hall_imports_only_rooms_below_it(room: str) -> None:
    """The board needs no web request, and the routes no command line."""
    allowed = IN_THE_HALL[room] | {room}
    strays = [
        str(use)
        for path in [*HALL.glob(f"{room}.py"), *(HALL / room).rglob("*.py")]
        for use in uses(path)
        if is_inside(use.name, "gastown.hall") and use.name.split(".")[2:3] != []
        if use.name.split(".")[2] not in allowed
    ]
    assert strays == []


def test_the_domain_and_the_reconciler_of_the_hall_are_pure() -> None:
    """No SQL, no HTTP, no clock, no tasks: both import the contract and a few pure modules."""
    strays = [
        str(use)
        for path in [*(HALL / "domain").rglob("*.py"), *(HALL / "reconcile").rglob("*.py")]
        for use in uses(path)
        if use.name.split(".")[0] not in THE_DOMAIN_MAY_USE
        or room_named(use.name) not in (None, "contract", "hall")
    ]
    assert strays == []


@pytest.mark.parametrize("name", ONLY_IN)
def test_a_name_is_used_only_where_it_belongs(name: str) -> None:
    """Frameworks, clients, databases, the environment and the working directory have their places."""
    places = ONLY_IN[name]
    strays = [
        str(use)
        for path in python_files("src/gastown")
        if not path.relative_to(HOUSE).as_posix().startswith(places)
        for use in uses(path)
        if is_inside(use.name, name)
    ]
    assert strays == []


def test_no_module_is_named_after_nothing() -> None:
    """A room's door says what is inside: no utils, helpers or misc."""
    parts = ((path, path.relative_to(SRC).with_suffix("").parts) for path in python_files("src"))
    assert [str(path) for path, names in parts if NAMES_THAT_SAY_NOTHING & set(names)] == []


def test_no_file_is_too_long() -> None:
    """No Python file in src or tests has more than 450 lines."""
    lengths = {path: len(path.read_text("utf-8").splitlines()) for path in python_files("src", "tests")}
    assert {str(path): lines for path, lines in lengths.items() if lines > MOST_LINES_OF_A_FILE} == {}


def test_no_function_is_too_long() -> None:
    """No function in src has more than 40 lines, its docstring included."""
    functions = [
        (
            f"{path.relative_to(REPOSITORY)}:{node.lineno} {node.name}",
            (node.end_lineno or 0) - node.lineno + 1,
        )
        for path in python_files("src")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert {where: lines for where, lines in functions if lines > MOST_LINES_OF_A_FUNCTION} == {}


def test_no_folder_has_too_many_files() -> None:
    """No folder of src has more than 15 Python files, its sub-folders not counted: then it gets sub-folders."""
    sizes = Counter(path.parent for path in python_files("src") if path.name != "__init__.py")
    assert {str(folder): files for folder, files in sizes.items() if files > MOST_FILES_OF_A_FOLDER} == {}
