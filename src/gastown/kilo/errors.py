"""What can go wrong with a kilo server. Messages hold no credential; `stderr` lines are for the log."""

from __future__ import annotations

import re

from gastown.concurrency.processes import Exit

__all__ = ["KiloError", "KiloGarbled", "KiloRefused", "KiloUnreachable", "NotReady", "ServerDied"]

_ELSEWHERE = re.compile(r"SQLITE_(?:BUSY|CANTOPEN|FULL|IOERR|LOCKED|NOMEM|READONLY)")
"""What SQLite calls a full disk and the like, of which no database is guilty."""


class KiloError(Exception):
    """Any failure of or with a kilo server."""


class KiloUnreachable(KiloError):
    """A request got no answer: connection refused or reset, or a time-out of the transport."""


class KiloRefused(KiloError):
    """A request was answered with an error status."""

    def __init__(self, method: str, path: str, status: int, name: str, message: str) -> None:
        super().__init__(f"kilo answered {method} {path} with {status} {name}: {message}")
        self.status = status
        self.name = name


class KiloGarbled(KiloError):
    """A request was answered with what no kilo says: not JSON, far too much, or values of the wrong kind."""

    def __init__(self, method: str, path: str, what: str) -> None:
        super().__init__(f"kilo answered {method} {path} with {what}")


class NotReady(KiloError):
    """The server listens, but is not what was asked for: tools are missing."""

    def __init__(self, missing: list[str]) -> None:
        super().__init__(f"kilo serve came up without the tools {', '.join(missing)}")
        self.missing = missing


class ServerDied(KiloError):
    """The process ended by itself. `exit` is None when it could not even be started.

    `stderr` are its first and its last words without a credential (`ServerSpec.redacted`): the caller is told
    them. A stack trace has its cause in the first ones, and a server that has lived in the last.
    """

    def __init__(self, ended: Exit | None, stderr: tuple[str, ...], reason: str = "") -> None:
        lines = [line for line in stderr if line.strip()]
        first, last = " | ".join(lines[:-5][:2]), " | ".join(lines[-5:])
        how = f"kilo serve {ended}" if ended is not None else f"kilo serve could not be started: {reason}"
        said = f"; first stderr: {first}" if first else ""
        super().__init__(how + said + (f"; last stderr: {last}" if last else "; nothing on stderr"))
        self.exit = ended
        self.stderr = stderr

    @property
    def database_unusable(self) -> bool:
        """Whether kilo gave up because of what is in its database (exit 1 and SQLiteError on stderr)."""
        said = "\n".join(self.stderr)
        return self.exit is not None and "SQLiteError" in said and not _ELSEWHERE.search(said)
