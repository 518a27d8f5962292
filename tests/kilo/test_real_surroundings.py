"""`gastown up` in surroundings that mean harm: planted programs in its folder, and a proxy before everything."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.git.server import open_git_server
from tests.kilo.town import KILO, eventually, real_town
from tests.kilo.world import LONGEST_SECONDS

pytestmark = pytest.mark.kilo

MODULES = ("h2", "sitecustomize", "usercustomize", "trio", "structlog", "json", "gastown")
PROGRAMS = ("kilo", "git", "python", "python3", "node", "sh", "bash", "rg", "ssh", "node_modules/.bin/kilo")
BRANCH = "work/toast"


def plant(folder: Path, marks: Path) -> None:
    """Whatever a program that is started here could take for its own; what is used leaves a mark."""
    js = f"require('fs').writeFileSync({str(marks / 'preload')!r}, '')\n"
    mark = f"touch {marks}/"
    files = {
        **{f"{name}.py": f"open({str(marks / name)!r}, 'w').close()\n" for name in MODULES},
        **{name: f"#!/bin/sh\n{mark}{Path(name).name}\nexit 1\n" for name in PROGRAMS},
        ".gitconfig": f"[core]\n\tfsmonitor = {mark}gitconfig\n[credential]\n\thelper = !{mark}gitconfig\n",
        ".npmrc": "registry=http://127.0.0.1:1/\n",
        "bunfig.toml": 'preload = ["./preload.js"]\n',
        "preload.js": js,
        "node_modules/h2/index.js": js,
        ".env": "KILO_API_KEY=canary\nGASTOWN_INSECURE=1\n",
        "kilo.json": '{"disabled_providers": ["kilo"]}',
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8")
        if text.startswith("#!"):
            (folder / name).chmod(0o755)


async def test_nothing_that_lies_in_the_folder_of_up_is_used(tmp_path: Path) -> None:
    """Though PATH leads there, by an entry that is relative, one that is empty and one that names it."""
    folder, marks = tmp_path / "cloned", tmp_path / "marks"
    folder.mkdir()
    marks.mkdir()
    plant(folder, marks)
    path = f".:node_modules/.bin::{folder}:{KILO.parent}:{os.environ['PATH']}"
    env = {"PATH": path, "HOME": str(tmp_path), "PYTHONPATH": "", "BUN_CONFIG": "bunfig.toml"}
    command = [sys.executable, "-P", "-m", "gastown", "up", "--dir", str(tmp_path / "town"), "--port", "0"]
    async with open_git_server(tmp_path / "remotes") as remote:
        remote.make("r", {"README": "Hello\n"})
        with trio.fail_after(LONGEST_SECONDS):
            done = await trio.run_process(
                [*command, "--exit-after-first-answer", "--rig", f"rig-1={remote.url('r')}"],
                cwd=folder,
                env=env,
                stdin=subprocess.DEVNULL,
                capture_stdout=True,
                capture_stderr=True,
                check=False,
            )
    said = (done.stdout + done.stderr).decode()
    assert (done.returncode, sorted(mark.name for mark in marks.iterdir())) == (0, []), said
    assert "stand-in" in said


@asynccontextmanager
async def open_recorder() -> AsyncIterator[tuple[str, list[bytes]]]:
    """A proxy that notes what it is asked, and answers nothing: its address, and the first line of each call."""
    asked: list[bytes] = []

    async def note(stream: trio.SocketStream) -> None:
        async with stream:
            asked.append((await stream.receive_some(65536)).split(b"\r\n")[0])

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, note, 0, name="recorder")
        port = listeners[0].socket.getsockname()[1]
        yield f"http://127.0.0.1:{port}", asked
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("names", [("http_proxy", "HTTP_PROXY", "ALL_PROXY")])
async def test_no_call_to_loopback_goes_by_a_proxy(tmp_path: Path, names: tuple[str, ...]) -> None:
    """Neither of the container nor of its git, its kilo, its plugin and a command: each carries a token."""
    async with open_recorder() as (proxy, asked), open_git_server(tmp_path / "remotes") as remote:
        remote.make("r", {"README": "Hello\n"})
        environment = dict.fromkeys(names, proxy)
        async with real_town(tmp_path / "town", {"turn_seconds": 0.1}, **environment) as town:
            await town.prewarmed()
            agent = await town.hall.start_mayor(town.dispatch, "Hello.")
            body = {
                "agentId": "polecat-1",
                "rigId": "rig-1",
                "townId": "town",
                "role": "polecat",
                "name": "Toast",
                "identity": "Toast of town",
                "prompt": "Say hello.",
                "model": "kilo-auto/frontier",
                "gitUrl": remote.url("r"),
                "branch": BRANCH,
                "defaultBranch": "main",
                "envVars": {"KILOCODE_TOKEN": (await town.hall.town()).kilocode_token.reveal()},
            }
            started = await town.dispatch._client.post("/agents/start", json=body, timeout=90)
            assert started.status_code == 201, started.text

            async def idle() -> bool:
                status = await town.dispatch.status("polecat-1")
                return status is not None and status.condition is not None and status.condition.type == "idle"

            await eventually(idle)
            [environ] = [
                Path(f"/proc/{town.server_of('polecat-1')}/environ").read_text("utf-8")  # noqa: ASYNC240
            ]
        assert agent.session_id
    assert proxy in environ
    assert [line for line in asked if re.search(rb"127\.|localhost|\[::1\]", line)] == []
