"""Work on an agent's database as its owner: in a thread of ours, or in a process of the agent's user.

SQLite reads what an agent has written, and may wait for ever on a pipe that stands in a file's place. So for a
user below us it runs in a process that has that user's rights, and that can be ended.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from subprocess import DEVNULL, PIPE

import trio

from gastown.concurrency.supervise import leaves
from gastown.contract.identifiers import printable
from gastown.isolation.starting import start_as
from gastown.isolation.users import User, identity, kill_at_once
from gastown.worker.snapshots import database
from gastown.worker.snapshots.database import CannotCopy

__all__ = ["DatabaseWork", "WorkCutOff"]

_PROGRAM = str(Path(database.__file__))
_ANSWER = 4096


class WorkCutOff(OSError):
    """A signal has ended the process at work: another user's, or an agent's. It may be done again."""


@dataclass(frozen=True)
class DatabaseWork:
    """`python` is one that every user may run. Cancelling ends a process, and abandons a thread that only reads;
    one that unpacks is waited for.

    Raises OSError when the work could not be done: then nothing is known of the database.
    """

    python: str = sys.executable

    async def is_sound(self, user: User | None, path: Path) -> bool:
        """See `database.is_sound`."""
        if user is None:
            return await trio.to_thread.run_sync(database.is_sound, path, abandon_on_cancel=True)
        return (await self._run(user, "sound", str(path)))[0] == database.YES

    async def unpack(self, user: User | None, content: bytes, path: Path) -> Path | None:
        """See `database.unpack`."""
        if user is None:
            return await trio.to_thread.run_sync(database.unpack, content, path)
        done, _ = await self._run(user, "unpack", str(path), content=content)
        return database.draft_of(path) if done == database.YES else None

    async def copy(self, user: User | None, path: Path, limit: int) -> bytes | None:
        """See `database.copy`."""
        if user is None:
            work = partial(database.copy, path, limit)
            return await trio.to_thread.run_sync(work, abandon_on_cancel=True)
        done, content = await self._run(user, "copy", str(path), str(limit), most=limit)
        if done == database.CANNOT_COPY:
            raise CannotCopy(_told(content))
        return content if done == database.YES else None

    async def _run(
        self, user: User, *arguments: str, content: bytes = b"", most: int = _ANSWER
    ) -> tuple[int, bytes]:
        """YES, NO or CANNOT_COPY, and at most `most` bytes of its output; a process that prints more is ended."""
        try:
            returncode, said = await self._ended(user, arguments, content, most)
        except ExceptionGroup as group:
            failures, others = group.split(OSError)
            if failures is None or others is not None:
                raise
            raise leaves(failures)[0] from None  # no process could be started
        match returncode:
            case database.YES | database.NO | database.CANNOT_COPY as done if len(said) <= most:
                return done, said
            case database.FAILED if said:
                raise OSError(_told(said))
            case int(done) if done < 0 and len(said) <= most:
                raise WorkCutOff(f"the work on the database was ended by signal {-done}")
            case done:
                raise OSError(f"the work on the database ended without an answer (exit code {done})")

    async def _ended(
        self, user: User, arguments: tuple[str, ...], content: bytes, most: int
    ) -> tuple[int | None, bytes]:
        """Its return code and what it has said, once it has ended."""
        async with trio.open_nursery() as nursery:
            work = partial(
                trio.run_process,
                [self.python, "-I", "-S", _PROGRAM, *arguments],
                stdin=content,
                stdout=PIPE,
                stderr=DEVNULL,
                check=False,
                cwd="/",
                env={},
                deliver_cancel=kill_at_once,
                **identity(user),
            )
            process: trio.Process = await start_as(user, partial(nursery.start, work))
            assert process.stdout is not None  # noqa: S101 - opened as a pipe
            said = bytearray()
            async with process.stdout:
                async for chunk in process.stdout:
                    said += chunk
                    if len(said) > most:
                        process.kill()
                        break
            await process.wait()
        return process.returncode, bytes(said)


def _told(content: bytes) -> str:
    return printable(content.decode(errors="replace"), 300)
