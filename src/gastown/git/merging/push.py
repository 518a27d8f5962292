"""A push whose target is the branch that is meant, whatever else the remote has."""

from __future__ import annotations

import secrets

import trio

from gastown.git.rig import RigGit

__all__ = ["push_commit"]

_CLEANUP_SECONDS = 5.0


async def push_commit(git: RigGit, commit: str, branch: str, *options: str) -> None:
    """Push `commit` to the remote's `branch`; nothing is forced. Raises as `RigGit.query`.

    Where the remote also has refs/heads/refs/heads/NAME, or a tag named refs/heads/NAME, git takes refs/heads/NAME
    for either and pushes nothing. A pattern names one reference only.
    """
    room = f"refs/gastown/push-{secrets.token_hex(4)}"
    await git.run("update-ref", f"{room}/{branch}", commit)
    try:
        await git.query("push", "--no-verify", *options, "origin", f"{room}/*:refs/heads/*")
    finally:
        with trio.move_on_after(_CLEANUP_SECONDS, shield=True):
            await git.says("update-ref", "-d", f"{room}/{branch}")
