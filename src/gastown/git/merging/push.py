"""A push of one commit to one branch."""

from __future__ import annotations

from gastown.git.rig import RigGit

__all__ = ["push_commit"]


async def push_commit(git: RigGit, commit: str, branch: str) -> None:
    """Push `commit` to the remote's `branch`; nothing is forced. Raises as `RigGit.query`.

    Where the remote also has refs/heads/refs/heads/NAME, or a tag named refs/heads/NAME, git takes refs/heads/NAME
    for either and pushes nothing. Over HTTP no way to write the name helps; `NameAmbiguous` says what does.
    """
    await git.query("push", "--no-verify", "origin", f"{commit}:refs/heads/{branch}")
