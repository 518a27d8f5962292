"""What can go wrong with git, as types. No message holds a credential."""

from __future__ import annotations

import re

__all__ = [
    "AuthFailed",
    "Busy",
    "Conflict",
    "GitError",
    "GitFailed",
    "GitTimedOut",
    "NetworkFailed",
    "PushRaced",
    "RepositoryNotFound",
    "failure",
]


class GitError(Exception):
    """Anything that a git operation ends with. `retryable`: the same may work later, with nothing changed."""

    retryable = False


class GitTimedOut(GitError):
    """An operation was cut by its own deadline."""

    retryable = True

    def __init__(self, operation: str, seconds: float) -> None:
        super().__init__(f"git {operation} did not end within {seconds:g} s")


class Conflict(GitError):
    """A merge that needs a decision; `files` are where."""

    def __init__(self, files: tuple[str, ...]) -> None:
        shown = ", ".join(files[:20]) + (f" and {len(files) - 20} more" if len(files) > 20 else "")
        super().__init__(f"Merge conflict in {len(files)} file{'s' if len(files) != 1 else ''}: {shown}")
        self.files = files


class GitFailed(GitError):
    """git ended with an error; the message holds the verb and the line that says why."""

    def __init__(self, verb: str, returncode: int, stderr: str) -> None:
        super().__init__(f"git {verb} failed with code {returncode}: {_reason(stderr)}")
        self.verb = verb
        self.returncode = returncode
        self.stderr = stderr


class AuthFailed(GitFailed):
    """The remote wants other credentials, or any. `refused`: the SHA-256 of the password that it did not take."""

    refused: str | None = None


class RepositoryNotFound(GitFailed):
    """There is no such repository, or it does not show itself to these credentials."""


class NetworkFailed(GitFailed):
    """The remote could not be reached, broke off, or answered with a failure of its own."""

    retryable = True


class PushRaced(GitFailed):
    """Somebody else pushed first; after a fetch the push may work."""

    retryable = True


class Busy(GitFailed):
    """Another git has a lock on a file of the repository for a moment."""

    retryable = True


# The order matters: a refused login is also an "unable to access".
_KINDS: tuple[tuple[type[GitFailed], re.Pattern[str]], ...] = (
    (
        AuthFailed,
        re.compile(
            r"Authentication failed|could not read (?:Username|Password)|returned error: 40[13]\b"
            r"|Permission denied \(|HTTP Basic: Access denied|Invalid username or (?:password|token)",
        ),
    ),
    (
        PushRaced,
        re.compile(
            r"\[rejected\][^\n]*\((?:fetch first|non-fast-forward|stale info)\)"
            r"|\[remote rejected\][^\n]*(?:cannot lock ref|failed to update ref|incorrect old value)",
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


def failure(verb: str, returncode: int, stderr: str) -> GitFailed:
    """The typed error for what git said; `stderr` has no credential in it any more."""
    for kind, pattern in _KINDS:
        if pattern.search(stderr):
            return kind(verb, returncode, stderr)
    return GitFailed(verb, returncode, stderr)


def _reason(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    telling = [line for line in lines if _SAYS_WHY.match(line)] or lines
    # git ends with general advice ("fatal: Could not read from remote repository"); what it hit first says more.
    return telling[0][:300] if telling else "no message"
