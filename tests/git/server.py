"""A real git server on loopback: git's own http-backend behind a small HTTP server that wants a token."""

from __future__ import annotations

import base64
import os
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

__all__ = ["Asked", "GitServer", "open_git_server"]

_BACKEND = Path(subprocess.check_output(["git", "--exec-path"], text=True).strip()) / "git-http-backend"
_QUIET = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_AUTHOR_NAME": "Test",
    "GIT_AUTHOR_EMAIL": "test@example.test",
    "GIT_COMMITTER_NAME": "Test",
    "GIT_COMMITTER_EMAIL": "test@example.test",
}


@dataclass(frozen=True)
class Asked:
    """A request that the server got, and with which password."""

    method: str
    path: str
    query: str
    password: str | None
    status: int


class GitServer:
    """Serves the bare repositories below `root`. `tokens` are good; None lets everybody in.

    `status` is answered instead of a 401 to a token that is not good. `before` is awaited with each request that
    has been let in: there a test can expire a token, hold the answer back, or push behind the client's back.
    `cut_after` breaks the connection after that many bytes of a pack, and `broken` breaks every one.
    `rate` (bytes a second) and `latency` (seconds before each answer) are a network's; `sent` counts bytes.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.port = 0
        self.tokens: set[str] | None = None
        self.refusal = 401
        self.asked: list[Asked] = []
        self.before: Callable[[Asked], object] | None = None
        self.hold: trio.Event | None = None
        self.held = trio.Event()
        self.cut_after: int | None = None
        self.broken = False
        self.rate: float | None = None
        self.latency = 0.0
        self.sent = 0

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def url(self, name: str) -> str:
        return f"{self.origin}/{name}.git"

    def bare(self, name: str) -> Path:
        return self.root / f"{name}.git"

    def git(self, name: str, *arguments: str, stdin: str | None = None) -> str:
        """Run git in the bare repository itself."""
        return _git(self.bare(name), *arguments, stdin=stdin)

    def make(self, name: str, files: dict[str, str] | None = None, branch: str = "main") -> str:
        """A repository with one commit that holds `files`, or an empty one for None; returns its commit."""
        bare = self.bare(name)
        bare.mkdir(parents=True)
        _git(bare, "init", "--quiet", "--bare", f"--initial-branch={branch}")
        for key, value in (("http.receivepack", "true"), ("uploadpack.allowFilter", "true")):
            _git(bare, "config", key, value)
        _git(bare, "config", "uploadpack.allowAnySHA1InWant", "true")
        return self.commit(name, branch, files) if files is not None else ""

    def commit(self, name: str, branch: str, files: dict[str, str], *, parent: str | None = None) -> str:
        """Put a commit with these files changed on a branch, as if somebody had pushed it."""
        parent = parent or self.tip(name, branch)
        stream = [f"commit refs/heads/{branch}", "committer Test <test@example.test> now", "data 1", "x"]
        if parent:
            stream.append(f"from {parent}")
        for path, content in files.items():
            stream += [f"M 100644 inline {path}", f"data {len(content.encode())}", content]
        self.git(name, "fast-import", "--quiet", "--force", "--date-format=now", stdin="\n".join(stream) + "\n")
        return str(self.tip(name, branch))

    def tip(self, name: str, branch: str) -> str | None:
        found = self.git(name, "for-each-ref", "--format=%(objectname)", f"refs/heads/{branch}").strip()
        return found or None

    def branches(self, name: str) -> list[str]:
        return self.git(name, "for-each-ref", "--format=%(refname:short)", "refs/heads").split()

    def read(self, name: str, branch: str, path: str) -> str:
        return self.git(name, "show", f"{branch}:{path}")

    def passwords(self) -> list[str | None]:
        """The passwords that came, each once, in the order in which they were first seen."""
        return list(dict.fromkeys(asked.password for asked in self.asked))

    async def _serve(self, stream: trio.SocketStream) -> None:
        async with stream:
            try:
                if not self.broken:
                    await self._answer(stream)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # the client has gone, as some tests want

    async def _answer(self, stream: trio.SocketStream) -> None:
        head, body = await _read_head(stream)
        (method, target), headers = head[0].split(" ")[:2], dict(line.lower().split(": ", 1) for line in head[1:])
        raw = dict(line.split(": ", 1) for line in head[1:])
        path, _, query = target.partition("?")
        if "100-continue" in headers.get("expect", ""):
            await stream.send_all(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await _read_body(stream, headers, body)
        password = _password(next((value for name, value in raw.items() if name.lower() == "authorization"), None))
        good = self.tokens is None or password in self.tokens
        status = 200 if good else (self.refusal if password is not None else 401)
        asked = Asked(method, path, query, password, status)
        self.asked.append(asked)
        if not good:
            challenge = 'WWW-Authenticate: Basic realm="git"\r\n' if status == 401 else ""
            said = f"your token {password} is not good"  # as unwise servers do
            refusal = f"HTTP/1.1 {status} No\r\n{challenge}Content-Type: text/plain\r\nContent-Length: {len(said)}"
            await stream.send_all(f"{refusal}\r\nConnection: close\r\n\r\n{said}".encode())
            return
        if self.before is not None:
            self.before(asked)
        if self.hold is not None and path.endswith("git-upload-pack"):
            self.held.set()
            await self.hold.wait()
        await self._backend(stream, asked, headers, body)

    async def _backend(
        self, stream: trio.SocketStream, asked: Asked, headers: dict[str, str], body: bytes
    ) -> None:
        env = {
            **_QUIET,
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(self.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": asked.path,
            "QUERY_STRING": asked.query,
            "REQUEST_METHOD": asked.method,
            "CONTENT_TYPE": headers.get("content-type", ""),
            "HTTP_CONTENT_ENCODING": headers.get("content-encoding", ""),
            "GIT_PROTOCOL": headers.get("git-protocol", ""),
            "CONTENT_LENGTH": str(len(body)),
            "REMOTE_USER": "test",
            "REMOTE_ADDR": "127.0.0.1",
        }
        done = await trio.run_process(
            [str(_BACKEND)], stdin=body, capture_stdout=True, capture_stderr=True, env=env, check=False
        )
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        status = next((line.partition(": ")[2] for line in lines if line.startswith("Status: ")), "200 OK")
        kept = "\r\n".join(line for line in lines if not line.startswith("Status: "))
        answer = f"HTTP/1.1 {status}\r\n{kept}\r\nContent-Length: {len(content)}\r\nConnection: close\r\n\r\n"
        if self.cut_after is not None and asked.path.endswith("git-upload-pack"):
            content = content[: self.cut_after]
        await trio.sleep(self.latency)
        self.sent += len(content)
        if self.rate is None:
            await stream.send_all(answer.encode() + content)
            return
        await stream.send_all(answer.encode())
        for start in range(0, len(content), 65536):
            chunk = content[start : start + 65536]
            await trio.sleep(len(chunk) / self.rate)
            await stream.send_all(chunk)


async def _read_head(stream: trio.SocketStream) -> tuple[list[str], bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = await stream.receive_some(65536)
        if not chunk:
            raise trio.BrokenResourceError
        data += chunk
    head, _, rest = data.partition(b"\r\n\r\n")
    return head.decode().split("\r\n"), rest


async def _read_body(stream: trio.SocketStream, headers: dict[str, str], body: bytes) -> bytes:
    if headers.get("transfer-encoding") == "chunked":
        whole = b""
        while True:
            while b"\r\n" not in body:
                body += await _more(stream)
            size, _, body = body.partition(b"\r\n")
            length = int(size, 16)
            while len(body) < length + 2:
                body += await _more(stream)
            whole, body = whole + body[:length], body[length + 2 :]
            if not length:
                return whole
    length = int(headers.get("content-length", "0"))
    while len(body) < length:
        body += await _more(stream)
    return body


async def _more(stream: trio.SocketStream) -> bytes:
    chunk = await stream.receive_some(1 << 20)
    if not chunk:
        raise trio.BrokenResourceError
    return bytes(chunk)


def _password(header: str | None) -> str | None:
    if header is None:
        return None
    return base64.b64decode(header.partition(" ")[2]).decode().partition(":")[2]


def _git(cwd: Path, *arguments: str, stdin: str | None = None) -> str:
    env = {"PATH": os.environ["PATH"], **_QUIET}
    done = subprocess.run(
        ["git", *arguments], cwd=cwd, env=env, input=stdin, text=True, capture_output=True, check=False
    )
    if done.returncode:
        raise AssertionError(f"git {arguments}: {done.stderr}")
    return done.stdout


@asynccontextmanager
async def open_git_server(root: Path) -> AsyncIterator[GitServer]:
    """A server for the length of the block, at a port of its own."""
    server = GitServer(root)
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, server._serve, 0, host="127.0.0.1"))
        server.port = listeners[0].socket.getsockname()[1]
        yield server
        nursery.cancel_scope.cancel()
