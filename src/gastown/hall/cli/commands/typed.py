"""Commands about a town, as they are to be typed on the machine on which it is up."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

from gastown.hall.cli.arguments import how_to_find
from gastown.hall.cli.boot import UpOptions

__all__ = ["program", "typed"]

_NAME = "gastown"


def typed(command: str, options: UpOptions) -> str:
    """`command` of this gastown, with what it needs to find the town of `options`."""
    named = how_to_find(options.hall.town_id, options.hall.data_dir, options.environment)
    return f"{program()} {command}{named}"


def program() -> str:
    """How this program is called: by its name where a shell finds it, else by its path, as after `make up`."""
    ours = Path(sys.argv[0])
    found = shutil.which(_NAME)
    is_another = found is None or not ours.exists() or not Path(found).samefile(ours)
    return shlex.quote(str(ours.absolute())) if is_another and ours.name == _NAME else _NAME
