"""What git says of its progress on stderr: `Receiving objects:  45% (450/1000), 1.2 MiB | 3.1 MiB/s`."""

from __future__ import annotations

import re
from collections.abc import Callable

import structlog
import trio

from gastown.contract.git import Progress

__all__ = ["OnProgress", "log_progress", "read_progress"]

log = structlog.get_logger()

OnProgress = Callable[[Progress], None]

_LINE = re.compile(r"(?:remote: )?([A-Z][A-Za-z ]{2,40}):\s+(\d{1,3})% \((\d+)/(\d+)\)")
_LOG_EVERY_SECONDS = 5.0


def read_progress(line: str) -> Progress | None:
    """The progress that `line` reports; None for anything else that git says."""
    found = _LINE.match(line)
    if found is None:
        return None
    return Progress(step=found[1].lower(), percent=int(found[2]), done=int(found[3]), total=int(found[4]))


def log_progress(rig_id: str, then: OnProgress) -> OnProgress:
    """Hand progress on to `then`, and log it once in five seconds: what is quick is not logged at all."""
    last = trio.current_time()

    def take(progress: Progress) -> None:
        nonlocal last
        then(progress)
        if trio.current_time() - last >= _LOG_EVERY_SECONDS:
            last = trio.current_time()
            log.info("git.progress", rig_id=rig_id, step=progress.step, percent=progress.percent)

    return take
