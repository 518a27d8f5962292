"""What can go wrong with git, as types. No message holds a credential."""

from __future__ import annotations

import re

__all__ = [
    "AuthFailed",
    "BranchCollides",
    "BranchMissing",
    "BranchMoved",
    "Busy",
    "CheckedOut",
    "Conflict",
    "GitError",
    "GitFailed",
    "GitTimedOut",
    "LoginFailed",
    "NameAmbiguous",
    "NamesCollide",
    "NetworkFailed",
    "PrintedTooMuch",
    "PushRaced",
    "RepositoryNotFound",
    "failure",
    "readable",
]


def readable(text: str) -> str:
    """`text` as git printed it (names are bytes), with a replacement character for what is no text."""
    return text.encode(errors="surrogateescape").decode(errors="replace")


class GitError(Exception):
    """Anything that a git operation ends with. `retryable`: the same may work later, with nothing changed.

    `of_rig`: it says something about the rig's repository as a whole, and not about one branch or merge only.
    """

    retryable = False
    of_rig = True


class GitTimedOut(GitError):
    """An operation was cut by its own deadline."""

    retryable = True

    def __init__(self, operation: str, seconds: float) -> None:
        super().__init__(f"git {operation} did not end within {seconds:g} s")


class PrintedTooMuch(GitError):
    """git printed more than its caller takes; `stdout` is the beginning of it."""

    def __init__(self, verb: str, most: int, stdout: bytes) -> None:
        super().__init__(f"git {verb} printed more than {most} bytes")
        self.stdout = stdout


class Conflict(GitError):
    """A merge that needs a decision; `files` are where, to be read, and `names` are the same as git has them."""

    of_rig = False

    def __init__(self, names: tuple[bytes, ...]) -> None:
        files = tuple(name.decode(errors="replace") for name in names)
        shown = ", ".join(files[:20]) + (f" and {len(files) - 20} more" if len(files) > 20 else "")
        super().__init__(f"Merge conflict in {len(files)} file{'s' if len(files) != 1 else ''}: {shown}")
        self.files = files
        self.names = names


class BranchMissing(GitError):
    """The remote has no branch of that name."""

    of_rig = False

    def __init__(self, branch: str) -> None:
        super().__init__(f"The repository has no branch {branch}")


class BranchMoved(GitError):
    """The branch has another commit, `head`, than the one that was to be merged."""

    of_rig = False

    def __init__(self, branch: str, wanted: str | None, head: str) -> None:
        super().__init__(
            f"The branch {branch} has moved to {head}, and {wanted} was to be merged: look at it again"
        )
        self.head = head


class BranchCollides(GitError):
    """The remote has a branch beside which it has no room for this one."""

    of_rig = False

    def __init__(self, branch: str, other: str) -> None:
        super().__init__(
            f"The repository has a branch {other}, and git cannot keep {branch} beside it: "
            f"start on another branch, or rename {other} there"
        )


class GitFailed(GitError):
    """git ended with an error; the message holds the verb and the line that says why.

    `stdout` is what it had printed: of some commands an error code is an answer.
    """

    def __init__(self, verb: str, returncode: int, stderr: str, stdout: bytes = b"") -> None:
        super().__init__(f"git {verb} failed with code {returncode}: {_reason(stderr)}")
        self.verb = verb
        self.returncode = returncode
        self.stderr = stderr
        self.stdout = stdout


class LoginFailed(GitFailed):
    """Another login may do. `refused`: the SHA-256 of the password that came to nothing; None: none was sent."""

    refused: str | None = None


class AuthFailed(LoginFailed):
    """The remote wants other credentials, or any."""


class RepositoryNotFound(LoginFailed):
    """There is no such repository, or it does not show itself to these credentials, as GitHub has it."""


class NetworkFailed(GitFailed):
    """The remote could not be reached, broke off, or answered with a failure of its own."""

    retryable = True


class NamesCollide(GitFailed):
    """A branch cannot be beside another one: where there is `work`, git has no room for `work/1`."""

    of_rig = False


class NameAmbiguous(GitFailed):
    """The remote has a second branch, or a tag, that is itself called refs/heads/NAME: git pushes to neither."""

    of_rig = False

    def __init__(self, verb: str, returncode: int, stderr: str, stdout: bytes = b"") -> None:
        super().__init__(verb, returncode, stderr, stdout)
        found = _TWICE.search(stderr)
        name = found[1] if found else "refs/heads/…"
        what_to_do = f"delete it there (git push origin :refs/heads/{name}, or :refs/tags/{name})"
        already = f"The repository also has a branch or a tag that is itself called {name}"
        self.args = (f"{already}, and git pushes to neither: {what_to_do}",)


class CheckedOut(GitFailed):
    """The branch is checked out where it would be pushed to, and what is there stands in the way. Trying again
    does not help: somebody has to look. Neither the branch nor a file was touched.
    """

    of_rig = False

    def __init__(self, verb: str, returncode: int, stderr: str, stdout: bytes = b"") -> None:
        super().__init__(verb, returncode, stderr, stdout)
        found = _CHECKED_OUT.search(stderr)
        branch, why = (found[1], found[2]) if found else ("the branch", "")
        what = {
            "Working directory has unstaged changes": "has changes that are not committed",
            "Working directory has staged changes": "has changes that are staged and not committed",
            "Could not update working tree to new HEAD": "has a file, in no commit, that it would overwrite",
        }.get(why, "cannot be updated")
        do = "commit or stash what is there" if what.startswith("has") else "check another branch out there"
        self.args = (f"The repository's own checkout of {branch} {what}: {do}",)


class PushRaced(GitFailed):
    """Somebody else pushed first; after a fetch the push may work."""

    retryable = True


class Busy(GitFailed):
    """Another git has a lock on a file of the repository for a moment."""

    retryable = True


_TWICE = re.compile(r"dst refspec (\S{1,300}) matches more than one")
_CHECKED_OUT = re.compile(
    r"\[remote rejected\] \S+ -> (\S+) \((Working directory has (?:un)?staged changes|Up-to-date check failed"
    r"|Could not update working tree to new HEAD|branch is currently checked out)\)"
)
# The order matters: a refused login is also an "unable to access".
_KINDS: tuple[tuple[type[GitFailed], re.Pattern[str]], ...] = (
    (NameAmbiguous, _TWICE),
    (CheckedOut, _CHECKED_OUT),
    (
        AuthFailed,
        re.compile(
            r"Authentication failed|could not read (?:Username|Password)|returned error: 40[13]\b"
            r"|Permission denied \(|HTTP Basic: Access denied|Invalid username or (?:password|token)",
        ),
    ),
    (
        NamesCollide,
        re.compile(
            r"(?s)(?:'refs/[^'\n]*' exists; cannot create|there are still refs under"
            r"|there is a non-empty directory).*\[remote rejected\]"
            r"|\[remote rejected\][^\n]*(?:exists; cannot create|there are still refs under)"
            r"|(?s:exists; cannot create.*\(unable to update local ref\))",
        ),
    ),
    (
        PushRaced,
        re.compile(
            r"\[rejected\][^\n]*\((?:fetch first|non-fast-forward|stale info)\)"
            r"|\[remote rejected\][^\n]*(?:cannot lock ref|incorrect old value)"
            # That a reference was not updated is a race only where the remote says that it has moved meanwhile.
            r"|(?s:(?:but expected|reference already exists|\.lock': File exists).*"
            r"\[remote rejected\][^\n]*failed to update ref)",
        ),
    ),
    (
        RepositoryNotFound,
        re.compile(r"repository '[^']*' not found|Repository not found|returned error: 404\b"),
    ),
    (
        NetworkFailed,
        re.compile(
            r"Could not resolve|Failed to connect|Couldn't connect|Connection (?:refused|reset|timed out|closed)"
            r"|early EOF|hung up unexpectedly|returned error: (?:408|429|5\d\d)\b|RPC failed|timed out"
            r"|Operation too slow|unexpected disconnect|SSL|gnutls|Network is unreachable"
            r"|Empty reply from server|transfer closed",
        ),
    ),
    (
        Busy,
        re.compile(r"\.lock': File exists|cannot lock ref|Unable to create '[^']*\.lock'|could not lock config"),
    ),
)
_SAYS_WHY = re.compile(r"^(?:fatal|error|! )", re.IGNORECASE)


def failure(verb: str, returncode: int, stderr: str, stdout: bytes = b"") -> GitFailed:
    """The typed error for what git said; `stderr` has no credential in it any more."""
    for kind, pattern in _KINDS:
        if pattern.search(stderr):
            return kind(verb, returncode, stderr, stdout)
    return GitFailed(verb, returncode, stderr, stdout)


def _reason(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    telling = [line for line in lines if _SAYS_WHY.match(line)] or lines
    # git ends with general advice ("fatal: Could not read from remote repository"); what it hit first says more.
    return telling[0][:300] if telling else "no message"
