"""Finding the executable that speaks `kilo serve`."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

__all__ = ["KILO_VERSION", "KiloMissing", "find_kilo"]

KILO_VERSION = "7.7.7"
"""The kilo whose facts this package relies on; tools/kilo pins the same."""

_REMEDY = (
    f"install kilo {KILO_VERSION} with `npm install --global @kilocode/cli@{KILO_VERSION}`, "
    "or name its executable in GASTOWN_KILO_BIN"
)
_ARCHITECTURES = {"x86_64": "x64", "aarch64": "arm64"}


class KiloMissing(Exception):
    """No usable executable; the message says where it was looked for and what to set."""


def find_kilo(configured: str | None, path: str) -> str:
    """The configured executable, else `kilo` on `path`; npm's wrapper is replaced by the binary that it runs.

    The wrapper is a Node script that runs the binary as its child: 41 MB more, and a KILL to it leaves the
    server running (kilo-facts 1).
    """
    if configured is not None:
        found = shutil.which(configured, path=path)
        if found is None:
            raise KiloMissing(f"GASTOWN_KILO_BIN is {configured!r}, which is not an executable file; {_REMEDY}")
        return os.path.abspath(found)  # noqa: PTH100 - as it was named: a link stays one
    found = shutil.which("kilo", path=path)
    if found is None:
        raise KiloMissing(f"no executable named kilo on PATH; {_REMEDY}")
    return str(_native(Path(found).resolve()) or found)


def _native(executable: Path) -> Path | None:
    """The binary that npm's wrapper runs: the package for this machine, installed beside or below it."""
    with executable.open("rb") as file:
        if not file.read(64).startswith(b"#!"):
            return None
    package = f"cli-linux-{_ARCHITECTURES.get(platform.machine(), platform.machine())}"
    for parent in executable.parents:
        for candidate in (parent / package, parent / "node_modules" / "@kilocode" / package):
            binary = candidate / "bin" / "kilo"
            if binary.is_file():
                return binary
    return None
