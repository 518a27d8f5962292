"""The demo: what a new town without a token and without a repository plays, from a script.

A convoy of three tasks in a small repository. Two change the same lines at once, so that one of them conflicts and
is resolved by its author; the third waits for both, and its merge asks a person.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

__all__ = ["ASKS_FOR", "RIG", "SCRIPT", "TASKS", "WISH"]

RIG = "demo"
"""The id of its repository, and the name of its folder in the town's data directory."""

WISH = "Teach greet.py French and German, and then write down which languages it knows."
"""What the mayor is told."""

ASKS_FOR = "Write down the languages"
"""The task whose merge asks a person."""

TASKS = 3
"""How many tasks the mayor makes of it."""

SCRIPT = Path(str(files("gastown.hall.demo").joinpath("demo.json")))
