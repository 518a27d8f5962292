"""`python -m gastown`: the same as the command `gastown`, and like it without modules of the current folder."""

import os
import sys
from contextlib import suppress

with suppress(OSError):  # the folder may be gone, and then Python has not put it there
    if not sys.flags.safe_path and sys.path[0] == os.getcwd():  # noqa: PTH109 - spelled as Python spells it
        del sys.path[0]

from gastown.cli import main

raise SystemExit(main())
