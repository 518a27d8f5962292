"""The plugin in its own runtime, without a server around it: kilo's binary runs JavaScript by itself."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from gastown.contract.tools import plugin_file

KILO = Path(__file__).parents[2] / ".tools" / "kilo" / "bin" / "kilo"
DRIVER = Path(__file__).with_name("plugin_driver.js")


class PluginError(Exception):
    """What the plugin threw; its message is what the model would see."""


class Plugin:
    """A loaded plugin. `call` is a tool's execution, the rest are hooks as kilo calls them."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._read = b""

    async def ask(self, command: str, **rest: Any) -> Any:
        with trio.fail_after(30):
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            await self._process.stdin.send_all(json.dumps({"command": command, **rest}).encode() + b"\n")
            while b"\n" not in self._read:
                chunk = await self._process.stdout.receive_some()
                assert chunk, "the plugin's process has ended"
                self._read += chunk
        line, _, self._read = self._read.partition(b"\n")
        said = json.loads(line)
        if "error" in said:
            raise PluginError(said["error"])
        return said["value"]

    async def call(self, tool: str, **args: Any) -> str:
        return str(await self.ask("call", tool=tool, args=args))


@asynccontextmanager
async def open_plugin(**environment: str) -> AsyncIterator[Plugin]:
    """The plugin in a process with no more than this environment."""
    process = await trio.lowlevel.open_process(
        [str(KILO), "run", str(DRIVER), str(plugin_file())],
        env={"PATH": os.environ["PATH"], "BUN_BE_BUN": "1", **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        yield Plugin(process)
    finally:
        process.kill()
        with trio.move_on_after(10, shield=True):
            await process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            await pipe.aclose()
