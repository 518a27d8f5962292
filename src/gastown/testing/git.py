"""git without processes, for virtual time: every command works at once, unless it hangs or takes its time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import trio

from gastown.contract.git import Progress
from gastown.contract.secret import Secret
from gastown.git.errors import GitError
from gastown.isolation.users import User

__all__ = ["FakeGit"]

COMMIT = "c" * 40


class FakeGit:
    """What `run_git` is. `asked` are the arguments of each command; `seconds` says how long a verb takes, and
    `failures` with what it fails, once each.

    A clone and a worktree leave the files by which they are known again. Every revision is there, and is the
    same commit.
    """

    def __init__(self, **seconds: float) -> None:
        self.asked: list[tuple[str, ...]] = []
        self.seconds = seconds
        self.failures: dict[str, list[GitError]] = {}

    async def __call__(
        self,
        *arguments: str,
        cwd: str,
        env: Mapping[str, str],
        config: Iterable[tuple[str, str]] = (),
        secrets: Iterable[Secret] = (),
        on_progress: Callable[[Progress], None] | None = None,
        user: User | None = None,
        stdin: bytes | None = None,
        most: int | None = None,
    ) -> str:
        self.asked.append(arguments)
        if on_progress is not None and arguments[0] == "clone":
            on_progress(Progress(step="receiving objects", percent=45, done=450, total=1000))
        await trio.sleep(self.seconds.get(arguments[0], 0))
        if failures := self.failures.get(arguments[0]):
            raise failures.pop(0)
        match arguments:
            case ("clone", *_):
                _write(Path(arguments[-1]) / ".git", "HEAD", "packed-refs")
            case ("init", *_):
                _write(Path(cwd) / ".git", "HEAD", "config")
                (Path(cwd) / ".git" / "objects").mkdir()
            case ("checkout", *_):
                _write(Path(cwd) / ".git", "index")
            case (*_, "commit", "--quiet", "--allow-empty", "-m", _):
                _write(Path(cwd) / ".git" / "refs" / "heads", "main")
            case ("for-each-ref", *_):
                return f"{COMMIT} refs/remotes/origin/main "
            case ("rev-parse", *_):
                return COMMIT
            case _:
                pass
        return ""


def _write(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
