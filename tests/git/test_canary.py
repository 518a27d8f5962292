"""No git token is ever on the disk, in an argv, in the environment of our own git, in a log, in an answer."""

from __future__ import annotations

from pathlib import Path

import trio

from tests.git.test_merge_requests import make_branch, merge_body
from tests.git.test_town import SETUP

CANARIES = ("canary-given-7f3a", "canary-renewed-51d2", "canary-in-the-address-9c0e", "canary-of-nobody-3b3b")
GIVEN, RENEWED, ADDRESS, REFUSED = CANARIES


class Watch:
    """Reads what every process shows of itself, again and again. `argv` and `ours` hold what was seen."""

    def __init__(self) -> None:
        self.argv: set[bytes] = set()
        self.ours: set[bytes] = set()

    async def look(self) -> None:
        while True:
            await trio.to_thread.run_sync(self._look_once)

    def _look_once(self) -> None:
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal():
                continue
            try:
                argv = (entry / "cmdline").read_bytes()
                environment = (entry / "environ").read_bytes()
            except OSError:
                continue
            self.argv.add(argv)
            if b"GASTOWN_GIT_KEY=r/-" in environment:
                self.ours.add(environment)


def on_disk(folder: Path, canary: str) -> list[str]:
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return [str(path) for path in files if canary.encode() in path.read_bytes()]


async def test_no_token_is_anywhere_but_in_memory_and_on_the_wire(git_town, quick_clock, tmp_path):
    server, said = git_town.server, []
    make_branch(server)
    server.tokens = {GIVEN}
    with_password = server.url("r").replace("http://", f"http://user:{ADDRESS}@")
    async with git_town() as town, trio.open_nursery() as nursery:
        watch = Watch()
        nursery.start_soon(watch.look)
        worker, client = town.town.worker, town.town.client
        variables = {"GIT_TOKEN": GIVEN, "KILOCODE_TOKEN": "k"}
        said.append((await town.start(gitUrl=with_password, envVars=variables)).text)
        await town.git("pole-1", "commit", "--allow-empty", "-m", "work")
        said.append(await town.git("pole-1", "push", "origin", "HEAD"))
        server.tokens, worker.git_token = {RENEWED}, RENEWED
        said.append((await client.post("/repos/setup", json={**SETUP, "gitUrl": with_password})).text)
        await town.until(lambda: worker.asked("POST /refresh-git-token"))
        await town.until(town.settled_rig())
        said.append((await client.post("/git/merge", json=merge_body(server, gitUrl=with_password))).text)
        await town.until(lambda: worker.reports("POST /complete"))
        said.append(await town.git("pole-1", "push", "origin", "HEAD"))
        server.tokens, worker.git_token = {"nobody"}, REFUSED
        with_refused = town.request("pole-2", envVars={"GIT_TOKEN": REFUSED, "KILOCODE_TOKEN": "k"})
        said.append((await client.post("/agents/start", json=with_refused)).text)
        paths = ("/health", "/agents/pole-1/status", "/agents/pole-1/events", "/agents/pole-2/status")
        said += [(await client.get(path)).text for path in paths]
        said += [str(worker.reports("POST /complete")), str(worker.agent_events())]
        said.append(town.town.log.getvalue())
        nursery.cancel_scope.cancel()
    assert [call["status"] for call in worker.reports("POST /complete")] == ["merged"]
    assert set(server.passwords()) >= {GIVEN, RENEWED, REFUSED, ADDRESS}, "the server has seen them all"
    assert len(watch.ours) > 3
    assert any(b"git\0clone" in argv for argv in watch.argv)
    for canary in CANARIES:
        assert on_disk(tmp_path, canary) == []
        assert [argv for argv in watch.argv if canary.encode() in argv] == []
        assert [environment for environment in watch.ours if canary.encode() in environment] == []
        assert [text for text in said if canary in text] == []
