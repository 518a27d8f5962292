"""Repositories on the wire: addresses and branch names that are fit for git, setup and merge requests."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated, Literal
from urllib.parse import SplitResult, unquote, urlsplit

from pydantic import AfterValidator, Field, StringConstraints

from gastown.contract.identifiers import AgentId, CallbackUrl, Identifier, RigId, TownId
from gastown.contract.secret import Secret, SecretMap
from gastown.contract.wire import Timestamp, Wire

__all__ = [
    "NO_BRANCH",
    "Accepted",
    "BranchName",
    "ChangedFile",
    "Changes",
    "CheckResult",
    "Command",
    "CommitId",
    "MergeRequest",
    "MergeState",
    "Progress",
    "Remote",
    "RemoteUrl",
    "ReviewResult",
    "RigState",
    "SetupRequest",
    "is_branch_name",
    "is_object_id",
    "is_one_line",
    "is_revision",
]

_BRANCH_BYTES = 200
"""A branch becomes one directory name with `/` as `__`; file systems end at 255."""
NO_BRANCH = "is not a name that git takes for a branch, or begins with refs/ or HEAD/: name the branch alone"
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//")
_OBJECT_ID = re.compile(r"[0-9a-f]{7,64}\Z")
_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252})|\[[0-9A-Fa-f:.]+\])\Z")
_TOKEN = re.compile(
    r"(?:gh[pousr]_\w{16,}|github_pat_\w{16,}|gl[a-z]{2,8}-[\w.-]{16,}|AT(?:BB|CTT)\S{16,}|[0-9a-f]{40}|[a-z2-7]{52})\Z",
    re.ASCII,
)
"""What GitHub, GitLab, Bitbucket, Gitea and Azure give out. Anything else before an @ is the name of a user."""
_NO_PASSWORDS = ("", "x-oauth-basic")
"""What stands for a password where the user name is the token."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SSH_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}\Z")
_SCP_LIKE = re.compile(r"git@(?P<host>[^:/@]+):(?P<path>[^-].*)\Z", re.DOTALL)


def is_branch_name(name: str) -> bool:
    """Whether git takes `name` for a branch (`git check-ref-format --branch`), and a directory can be named so.

    What git takes for something else as well is none: below `refs/` the full name of another branch, and below
    `HEAD/` what has no room beside the remote's HEAD in a clone.
    """
    try:
        if not 0 < len(name.encode().replace(b"/", b"__")) <= _BRANCH_BYTES:
            return False
    except UnicodeEncodeError:
        return False
    if name == "@" or name.partition("/")[0] in ("HEAD", "refs"):
        return False
    if name.startswith(("-", "/")) or name.endswith(("/", ".")):
        return False
    if _FORBIDDEN.search(name):
        return False
    return not any(part.startswith(".") or part.endswith(".lock") for part in name.split("/"))


def is_one_line(value: str) -> bool:
    """Whether `value` may be told to git: a line break in it would be another line of what git is told."""
    return _CONTROL.search(value) is None


def is_object_id(text: str) -> bool:
    """Whether `text` may be a commit's name, or the beginning of one."""
    return _OBJECT_ID.match(text) is not None


def is_revision(text: str) -> bool:
    """Whether `text` may name where a branch starts: a branch, with or without its remote, or an object id."""
    return is_object_id(text) or is_branch_name(text)


@dataclass(frozen=True)
class Remote:
    """The address of a repository, without the credentials that it may have come with.

    `url` is what may stand on disk and in an argv. `origin` is what a credential is for: scheme, host, port.
    A lone user name is `username`, or `password` if it is a token by its shape.
    """

    url: str
    scheme: Literal["https", "http", "ssh"]
    host: str
    path: str
    username: str | None = field(default=None, repr=False)
    password: Secret | None = field(default=None, repr=False)

    @property
    def origin(self) -> str:
        return f"{self.scheme}://{self.host}"

    @classmethod
    def parse(cls, text: str) -> Remote:
        """Read an http(s), ssh or `git@host:path` address; raises `ValueError`, which repeats none of it."""
        if not text.isprintable() or " " in text or "\\" in text or len(text) > 2000:
            raise ValueError("must not hold spaces, control characters or backslashes")
        if found := _SCP_LIKE.match(text):
            host, path = found["host"], found["path"]
            _check_place(host, path)
            return cls(f"git@{host}:{path}", "ssh", host.lower(), path.lstrip("/"))
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError:
            raise ValueError("is not an address that can be read") from None
        if parts.scheme == "ssh":
            return cls._of_ssh(parts, port)
        if parts.scheme not in ("http", "https"):
            raise ValueError("must begin with https://, http://, ssh:// or git@")
        return cls._of_parts(parts, port)

    @classmethod
    def _of_ssh(cls, parts: SplitResult, port: int | None) -> Remote:
        """As `git@host:path`, with a user and a port of its own. The port is ssh's, and says nothing of https."""
        if parts.query or parts.fragment:
            raise ValueError("must not have a query or a fragment")
        user, at, place = parts.netloc.rpartition("@")
        if ":" in user:
            raise ValueError("must not hold a password: ssh takes none from an address")
        if at and not _SSH_USER.match(user):
            raise ValueError("has no usable user name")
        host = place.removesuffix(f":{port}") if port is not None else place.removesuffix(":")
        _check_place(host, parts.path.lstrip("/"))
        shown = host if port is None else f"{host}:{port}"
        return cls(f"ssh://{user}{at}{shown}{parts.path}", "ssh", host.lower(), parts.path.lstrip("/"))

    @classmethod
    def _of_parts(cls, parts: SplitResult, port: int | None) -> Remote:
        if parts.query or parts.fragment:
            raise ValueError("must not have a query or a fragment")
        host = parts.netloc.rpartition("@")[2].removesuffix(":")
        bare = host.removesuffix(f":{port}") if port is not None else host
        _check_place(bare, parts.path.lstrip("/"))
        scheme: Literal["https", "http"] = "https" if parts.scheme == "https" else "http"
        username, password = (unquote(part) if part else None for part in (parts.username, parts.password))
        if not all(is_one_line(value) for value in (username, password) if value):
            raise ValueError("must not hold a user name or a password with control characters")
        if username and password in (None, *_NO_PASSWORDS) and _TOKEN.match(username):
            username, password = None, username  # https://TOKEN@host
        if port == (443 if scheme == "https" else 80):
            host = bare
        return cls(
            f"{scheme}://{host.lower()}{parts.path}",
            scheme,
            host.lower(),
            parts.path.lstrip("/"),
            username,
            Secret(password) if password else None,
        )


def _check_place(host: str, path: str) -> None:
    if not _HOST.match(host):
        raise ValueError("has no usable host")
    if not path or path.startswith("-"):
        raise ValueError("names no repository")
    if ".." in unquote(path).split("/"):
        raise ValueError("must not hold a '..' segment")


def _branch(value: str) -> str:
    if not is_branch_name(value):
        raise ValueError(NO_BRANCH)
    return value


def _address(value: str) -> str:
    Remote.parse(value)
    return value


def _one_argument(value: str) -> str:
    if "\0" in value:
        raise ValueError("must not hold a NUL character")
    return value


BranchName = Annotated[str, AfterValidator(_branch)]
CommitId = Annotated[str, StringConstraints(pattern=r"^(?:[0-9a-f]{40}|[0-9a-f]{64})$")]
"""A commit's whole name: one that is cut short could be made to name another commit."""
Command = Annotated[str, StringConstraints(min_length=1, max_length=10_000), AfterValidator(_one_argument)]
"""What a shell runs."""
MergeReason = Literal["conflict", "failed", "checks", "moved", "person"]
"""Why a branch was not merged."""
RemoteUrl = Annotated[str, Field(repr=False), AfterValidator(_address)]


class SetupRequest(Wire):
    """`POST /repos/setup`."""

    rig_id: RigId
    git_url: RemoteUrl
    default_branch: BranchName
    env_vars: SecretMap = Field(default_factory=dict)
    platform_integration_id: str | None = Field(default=None, max_length=500)


class MergeRequest(Wire):
    """`POST /git/merge`: merge `branch` into `target_branch` and push.

    `head` is the commit that the branch must have; without it, it is merged as it is. `checks` are commands that
    the result must pass before it is pushed: each one in a shell, in a worktree with the result, without any
    credential, for at most `check_seconds`.
    """

    town_id: TownId
    rig_id: RigId
    branch: BranchName
    target_branch: BranchName
    git_url: RemoteUrl
    entry_id: Identifier
    bead_id: Identifier
    agent_id: AgentId
    callback_url: CallbackUrl | None = Field(default=None, repr=False)
    env_vars: SecretMap = Field(default_factory=dict)
    head: CommitId | None = None
    checks: tuple[Command, ...] = Field(default=(), max_length=50)
    check_seconds: float = Field(default=900, gt=0, le=86_400)


class Accepted(Wire):
    """202: the work goes on after the answer."""

    status: Literal["accepted"] = "accepted"
    message: str


class ReviewResult(Wire):
    """What became of a merge. The worker knows two words: `conflict` is everything that is not merged.

    `reason` tells what it is: `conflict` in `conflicting_files`, `checks` that the result did not pass (`message`
    has the end of their output), `moved` for a branch that has another commit (`head`) than was asked for,
    `person` where somebody must do something in the repository first (`message` says what), or `failed`, as for a
    remote that could not be reached. `nothing_to_merge`: it is merged, since the branch had no
    commit that the target did not have.

    Where the name of a file is not UTF-8, `conflicting_files` has a replacement character for what is no text in
    it, and `conflicting_files_base64` the same names byte for byte, in the same order.
    """

    model_config = Wire.model_config | {"alias_generator": None}

    entry_id: str
    status: Literal["merged", "conflict"]
    message: str
    commit_sha: str | None = None
    reason: MergeReason | None = None
    conflicting_files: tuple[str, ...] | None = None
    conflicting_files_base64: tuple[str, ...] | None = None
    head: str | None = None
    nothing_to_merge: bool | None = None


class CheckResult(Wire):
    """How a check ended. `exit_code` is that of its shell, negative for a signal, absent where its time was up.

    `tail` is the end of what it printed, up to 4,000 characters without control characters.
    """

    command: str
    exit_code: int | None = None
    seconds: float
    tail: str


class MergeState(Wire):
    """`GET /git/merges/:entryId`: how a merge stands, for a day after its end.

    `message` says it in a sentence. `failed` is everything that is neither merged nor a conflict, as a remote that
    could not be reached; `reason` says which, as in the report of a merge, and so do the file names and `head`.
    `checks` are those that were run, the last one being the one that failed.
    """

    entry_id: str
    rig_id: str
    branch: str
    target_branch: str
    status: Literal["pending", "merged", "conflict", "failed"]
    message: str
    commit_sha: str | None = None
    conflicting_files: tuple[str, ...] | None = None
    conflicting_files_base64: tuple[str, ...] | None = None
    reason: MergeReason | None = None
    head: str | None = None
    nothing_to_merge: bool | None = None
    checks: tuple[CheckResult, ...] | None = None
    began_at: Timestamp
    ended_at: Timestamp | None = None


class ChangedFile(Wire):
    """A file that a branch changes, and how many lines of it; without them, it is no text."""

    path: str
    added: int | None = None
    removed: int | None = None


class Changes(Wire):
    """`GET /rigs/:rigId/changes`: what a branch has, at its commit `head`, that its target has not.

    `base` is the newest commit that both have. `files` and `patch` are what has changed from there to `head`;
    `files_cut` and `patch_cut` say that there is more of it. Both are as somebody pushed them: `patch` may hold
    control characters. Without `files`, there is nothing to merge.
    """

    rig_id: str
    branch: str
    target: str
    head: str
    base: str
    files: tuple[ChangedFile, ...]
    files_cut: bool
    patch: str
    patch_cut: bool


class Progress(Wire):
    """How far a long git operation is. `percent` is that of `step`."""

    step: str
    percent: int
    done: int
    total: int


class RigState(Wire):
    """A rig's clone and browse worktree, for `/health`. `notice` is what to know of one that is ready."""

    rig_id: str
    state: Literal["waiting", "working", "ready", "failed"]
    doing: str | None = None
    progress: Progress | None = None
    browse: str | None = None
    error: str | None = None
    notice: str | None = Field(default=None, exclude_if=lambda notice: notice is None)
