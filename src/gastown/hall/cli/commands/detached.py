"""`gastown up --detach`: the town runs on in a process of its own, which this one has seen come up."""

from __future__ import annotations

import os
import subprocess
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path

from gastown.hall.cli.arguments import how_to_find, town_folder

__all__ = ["LOG", "up_detached"]

LOG = "up.log"
"""The file in the town's directory that has what `up` would have printed."""


def up_detached(options: Namespace, env: Mapping[str, str], given: Sequence[str]) -> int:
    """Start `gastown` with the `given` arguments in a session of its own, and wait until its town is up. 0, or the
    exit code with which it has ended instead, and the last that it said. Ctrl-C meanwhile ends the town in order.
    """
    folder = town_folder(options, env)
    path = folder / LOG
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as error:
        return _complain(f"cannot write {path}: {error.strerror}", 2)
    began = os.fstat(log).st_size
    ready, telling = os.pipe()
    # Without -P, a module in the folder of now would run in the place of ours.
    command = (sys.executable, "-P", "-m", "gastown", *given, f"--tell-when-up={telling}")
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        pass_fds=(telling,),
        start_new_session=True,
        env=dict(env),
    )
    os.close(telling)
    os.close(log)
    try:
        is_up = bool(os.read(ready, 1))  # nothing once the process has ended
        code = None if is_up else child.wait()
    except KeyboardInterrupt:
        child.terminate()
        child.wait()
        raise
    finally:
        os.close(ready)
    if code is not None:
        return _complain(f"{_last_word(path, began, code)}; its log is {path}", code if code > 0 else 1)
    child.returncode = 0  # it goes on, and is not this process's to wait for
    _say(child.pid, path, how_to_find(options.town, folder, env))
    return 0


def _last_word(path: Path, began: int, code: int) -> str:
    """Why the town is not up: the last line of its log from the byte `began` on."""
    if code < 0:
        return f"it was ended by signal {-code}"
    try:
        with path.open("rb") as log:
            log.seek(began)
            lines = log.read().decode("utf-8", "replace").strip().splitlines()
    except OSError:
        lines = []
    says = "".join(c if c.isprintable() else " " for c in lines[-1]) if lines else f"it ended with {code}"
    return says.removeprefix("gastown up: ")


def _say(pid: int, path: Path, named: str) -> None:
    out = sys.stdout
    if out is not None:
        out.write(
            f"the town is up: process {pid}, log {path}\n"
            f"gastown mayor{named} TEXT  speaks to the mayor\n"
            f"gastown status{named}      says how the town is\n"
            f"gastown down{named}        ends it\n"
        )


def _complain(problem: str, code: int) -> int:
    if sys.stderr is not None:
        sys.stderr.write(f"gastown up: {problem}\n")
    return code
