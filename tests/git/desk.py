"""An agent's worktree on a real git server, the states that agents leave one in, and a salvage of it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gastown.git.repos import unreported
from gastown.git.salvage.receipt import Job, Receipt
from gastown.git.salvage.salvage import salvage
from gastown.git.worktrees import check_out
from tests.git.server import GitServer

if TYPE_CHECKING:
    from tests.git.conftest import Life, Place

__all__ = ["AUTHOR", "BRANCH", "FILES", "STATES", "Desk", "open_desk", "refusing"]

FILES = {"a.txt": "one\n", "dir/b.txt": "two\n"}
BRANCH = "work/1"
AUTHOR = {f"GIT_{who}_{what}": "agent@test" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


@dataclass
class Desk:
    """One agent's worktree on `work/1`, and what a salvage of it comes to."""

    place: Place
    life: Life
    path: Path
    number: int = 0

    @property
    def server(self) -> GitServer:
        """Where the rig is."""
        return self.place.server

    def git(self, *arguments: str, cwd: Path | None = None) -> str:
        """git as the agent runs it, with all that it has configured."""
        env = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "GIT_ALLOW_PROTOCOL": "file"} | AUTHOR
        done = subprocess.run(
            ["git", *arguments], cwd=cwd or self.path, env=env, text=True, capture_output=True, check=True
        )
        return done.stdout.strip()

    def write(self, name: str, text: str = "open\n") -> None:
        (self.path / name).parent.mkdir(parents=True, exist_ok=True)
        (self.path / name).write_text(text)

    def commit(self, name: str = "done.txt", text: str = "done\n") -> str:
        self.write(name, text)
        self.git("-c", "core.hooksPath=/dev/null", "add", name)
        self.git("-c", "commit.gpgSign=false", "commit", "-q", "--no-verify", "-m", f"With {name}")
        return self.git("rev-parse", "HEAD")

    async def salvage(self, *, on_branch: bool = True) -> Receipt:
        self.number += 1
        receipt = Receipt(BRANCH)
        job = Job("pole-1", BRANCH, f"20261130T18000{self.number}Z", "WIP", AUTHOR, on_branch)
        rig = self.place.rig("r")
        await salvage(self.life.repositories.git(rig, str(self.path)), job, receipt)
        return receipt

    def read(self, ref: str, name: str) -> str:
        return self.server.git("r", "show", f"{ref}:{name}")

    def found(self, receipt: Receipt, name: str) -> str:
        """The text of a file in any of the commits that the receipt says are on the remote."""
        refs = [one.ref for one in receipt.rescued] + ([BRANCH] if receipt.pushed else [])
        for ref in refs:
            try:
                return self.read(ref, name)
            except AssertionError:
                continue
        raise AssertionError(f"{name} is in none of {refs}: {receipt}")

    def left(self) -> set[str]:
        """What of the salvage is left in the rig's room; it should be nothing."""
        return {name for name in self.place.names() if name.startswith(".salvage")}


@asynccontextmanager
async def open_desk(place: Place) -> AsyncIterator[Desk]:
    """A worktree on a new branch for the length of the block; a salvage must leave nothing beside it."""
    place.server.make("r", FILES)
    async with place.life() as life:
        rig = place.rig("r")
        life.credentials.register_rig("r", rig.remote)
        path = place.worktree("r", BRANCH)
        await check_out(life.repositories, life.repositories.git(rig, str(path)), BRANCH, None, unreported)
        desk = Desk(place, life, path)
        yield desk
        assert desk.left() == set()


def nested_without_commit(desk: Desk) -> None:
    desk.git("init", "-q", "scaffold")


def nested_with_file(desk: Desk) -> None:
    desk.git("init", "-q", "scaffold")
    desk.write("scaffold/x.txt")


def signing(desk: Desk) -> None:
    desk.git("config", "commit.gpgsign", "true")
    desk.git("config", "gpg.program", "/bin/false")


def safecrlf(desk: Desk) -> None:
    desk.git("config", "core.autocrlf", "input")
    desk.git("config", "core.safecrlf", "true")
    (desk.path / "crlf.txt").write_bytes(b"a\r\nb\n")


def failing_filter(desk: Desk) -> None:
    desk.write(".gitattributes", "* filter=bad\n")
    desk.git("config", "filter.bad.clean", "/bin/false")
    desk.git("config", "filter.bad.required", "true")


def hanging_filter(desk: Desk) -> None:
    desk.write(".gitattributes", "* filter=bad\n")
    desk.git("config", "filter.bad.process", "sleep 1000")


def hooks(desk: Desk) -> None:
    folder = desk.path / ".git" / "hooks"
    folder.mkdir(exist_ok=True)
    for name in ("pre-commit", "pre-push", "reference-transaction", "post-index-change", "commit-msg"):
        (folder / name).write_text("#!/bin/sh\nexit 1\n")
        (folder / name).chmod(0o755)
    desk.git("config", "core.hooksPath", str(folder))


def monitor(desk: Desk) -> None:
    desk.git("config", "core.fsmonitor", "/bin/false")
    desk.git("config", "core.untrackedCache", "true")
    desk.git("config", "status.showUntrackedFiles", "no")


def other_address(desk: Desk) -> None:
    desk.git("config", "url.http://127.0.0.1:1/.insteadOf", desk.server.origin)
    desk.git("config", "url.http://127.0.0.1:1/.pushInsteadOf", desk.server.origin)
    desk.git("config", "remote.origin.pushurl", "http://127.0.0.1:1/x.git")
    desk.git("config", "http.proxy", "http://127.0.0.1:1")


def damaged_config(desk: Desk) -> None:
    (desk.path / ".git" / "config").write_text("[core\nnonsense")


def unknown_extension(desk: Desk) -> None:
    desk.git("config", "extensions.fromTheFuture", "true")


def bare(desk: Desk) -> None:
    desk.git("config", "core.bare", "true")


def other_worktree_setting(desk: Desk) -> None:
    (desk.place.folder / "elsewhere").mkdir()
    desk.git("config", "core.worktree", str(desk.place.folder / "elsewhere"))


def lock(desk: Desk) -> None:
    (desk.path / ".git" / "index.lock").touch()
    (desk.path / ".git" / "HEAD.lock").touch()


def damaged_index(desk: Desk) -> None:
    (desk.path / ".git" / "index").write_bytes(b"DIRC nonsense")


def no_index(desk: Desk) -> None:
    (desk.path / ".git" / "index").unlink()


def hidden_flags(desk: Desk) -> None:
    desk.write("a.txt")
    desk.git("update-index", "--assume-unchanged", "a.txt")
    desk.git("update-index", "--skip-worktree", "dir/b.txt")


def odd_names(desk: Desk) -> None:
    for name in ("new\nline", "ta\tb", "qu'o\"te", "ümlaut 🤖", ":(top)x", "-dash", "*", " space "):
        desk.write(f"odd/{name}")
    (Path(os.fsencode(desk.path).decode()) / os.fsdecode(b"odd/b\xff\xfe")).write_text("open\n")


def not_files(desk: Desk) -> None:
    os.mkfifo(desk.path / "pipe")
    os.mkfifo(desk.path / "dir" / ".gitignore")
    os.mkfifo(desk.path / ".gitattributes")
    (desk.path / "dangling").symlink_to("/nowhere")
    (desk.path / "loop").symlink_to("loop")


def encoding(desk: Desk) -> None:
    desk.write(".gitattributes", "wide.txt working-tree-encoding=UTF-16\n")
    (desk.path / "wide.txt").write_bytes(b"odd")


def no_remote(desk: Desk) -> None:
    desk.git("remote", "remove", "origin")


def fork_as_origin(desk: Desk) -> None:
    desk.git("remote", "rename", "origin", "upstream")
    desk.git("init", "-q", "--bare", str(desk.place.folder / "fork.git"))
    desk.git("remote", "add", "origin", str(desk.place.folder / "fork.git"))
    desk.git("push", "-q", "origin", "HEAD")


def lying_tracking_ref(desk: Desk) -> None:
    desk.git("update-ref", "refs/remotes/origin/work/1", "HEAD")
    desk.git("update-ref", "refs/remotes/origin/main", "HEAD")


def replaced_objects(desk: Desk) -> None:
    desk.git("replace", "HEAD", "HEAD~1")


def alternates_gone(desk: Desk) -> None:
    (desk.path / ".git" / "objects" / "info" / "alternates").unlink()


def detached(desk: Desk) -> None:
    desk.git("checkout", "-q", "--detach")


def packed(desk: Desk) -> None:
    desk.git("pack-refs", "--all")


def moved_repository(desk: Desk) -> None:
    (desk.path / ".git").rename(desk.place.folder / "moved.git")
    (desk.path / ".git").write_text(f"gitdir: {desk.place.folder / 'moved.git'}\n")


def linked_repository(desk: Desk) -> None:
    (desk.path / ".git").rename(desk.place.folder / "moved.git")
    (desk.path / ".git").symlink_to(desk.place.folder / "moved.git")


def submodule(desk: Desk) -> None:
    desk.server.make("sub", {"s.txt": "s\n"})
    desk.git("-c", "protocol.http.allow=always", "clone", "-q", str(desk.server.bare("sub")), "sub")
    desk.git("add", "sub")


def main_has_moved_on(desk: Desk) -> None:
    desk.server.commit("r", "main", {"later.txt": "later\n"})


STATES: tuple[Callable[[Desk], None], ...] = (
    nested_without_commit,
    nested_with_file,
    signing,
    safecrlf,
    failing_filter,
    hanging_filter,
    hooks,
    monitor,
    other_address,
    damaged_config,
    unknown_extension,
    bare,
    other_worktree_setting,
    lock,
    damaged_index,
    no_index,
    hidden_flags,
    odd_names,
    not_files,
    encoding,
    no_remote,
    fork_as_origin,
    lying_tracking_ref,
    replaced_objects,
    alternates_gone,
    detached,
    packed,
    moved_repository,
    linked_repository,
    submodule,
    main_has_moved_on,
)


def refusing(desk: Desk, script: str) -> None:
    hook = desk.server.bare("r") / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\n{script}\n")
    hook.chmod(0o755)
