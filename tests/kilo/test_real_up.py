"""`gastown up` as a person runs it: one command, an answer, Ctrl-C, nothing left."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from gastown.testing.asgi import Answer, Asked, answer, app_of
from tests.git.server import open_git_server
from tests.kilo.town import KILO, alive, descendants, eventually
from tests.kilo.world import serving

pytestmark = pytest.mark.kilo


@asynccontextmanager
async def up(data: Path, *arguments: str, **variables: str) -> AsyncIterator[trio.Process]:
    """A running `gastown up`, ended with the block whatever the test did to it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("KILO", "GASTOWN"))}
    with (data.parent / "up.log").open("ab") as log:
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "gastown", "up", "--dir", str(data), "--port", "0", *arguments],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env=environment | {"GASTOWN_KILO_BIN": str(KILO)} | variables,
        )
    try:
        yield process
    finally:
        with trio.move_on_after(60, shield=True):
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            await process.wait()


async def first_answer(report: Path) -> dict:
    async def read() -> dict | None:
        text = await trio.Path(report).read_text() if await trio.Path(report).exists() else ""
        return json.loads(text) if text.endswith("}\n") else None

    return await eventually(read, 120)


async def test_ctrl_c_ends_a_town_with_exit_code_0_and_leaves_no_process(tmp_path):
    report = tmp_path / "up.json"
    async with up(tmp_path / "town", "--message", "Good morning", "--json", str(report)) as process:
        answer = await first_answer(report)
        below = descendants(process.pid)
        process.send_signal(signal.SIGINT)
        with trio.fail_after(60):
            assert await process.wait() == 0
    assert answer["turn"]["reason"] == "completed"
    assert len(below) >= 2
    assert alive(below) == []
    said = (tmp_path / "up.log").read_text()
    assert "stand-in" in said
    assert "prewarm" in said


async def test_a_second_up_finds_the_same_conversation_and_greets_nobody_and_the_end_of_its_terminal_saves_it(
    tmp_path,
):
    reports = [tmp_path / f"up-{number}.json" for number in range(2)]
    async with up(tmp_path / "town", "--json", str(reports[0]), "--exit-after-first-answer") as process:
        with trio.fail_after(120):
            assert await process.wait() == 0
    async with up(tmp_path / "town", "--json", str(reports[1])) as process:
        again = await first_answer(reports[1])
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGHUP)
        with trio.fail_after(60):
            assert await process.wait() == 0
    before = json.loads(reports[0].read_text())
    assert (before["toldBy"], before["resumed"], again["toldBy"], again["resumed"]) == ("start", False, None, True)
    assert before["sessionId"] == again["sessionId"]
    receipts = [
        line for line in (tmp_path / "town" / "serve.log").read_text().splitlines() if "drain.receipt" in line
    ]
    assert [json.loads(line)["saved"] for line in receipts] == [True]
    assert (tmp_path / "up.log").read_text().count("you:") == 1


async def test_a_gateway_that_refuses_is_on_the_screen_with_the_tokens_name(tmp_path):
    async def refuse(asked: Asked) -> Answer:
        if asked.path.endswith("/chat/completions"):
            return answer({"error": {"message": "User not found", "code": 401}}, 401)
        return answer({"data": []})

    async with serving(app_of(refuse)) as gateway:
        own = {"KILO_API_URL": gateway, "KILOCODE_TOKEN": "refused"}
        async with up(tmp_path / "town", "--exit-after-first-answer", **own) as process:
            with trio.fail_after(120):
                assert await process.wait() == 1
    assert f"the gateway {gateway} refuses KILOCODE_TOKEN (HTTP 401)" in (tmp_path / "up.log").read_text()


async def test_a_gateway_with_openais_paths_answers_and_nothing_else_is_asked(tmp_path):
    """GASTOWN_GATEWAY_URL is the base of its paths, and its list of models needs no more than their names."""
    asked: list[tuple[str, str | None]] = []

    async def openai(request: Asked) -> Answer:
        asked.append((request.path, request.headers.get("authorization")))
        if request.path == "/v1/models":
            return answer({"object": "list", "data": [{"id": "my/model", "object": "model", "owned_by": "me"}]})
        if request.path != "/v1/chat/completions":
            return answer({"error": {"message": "Not found"}}, 404)
        head = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "my/model"}
        pieces = (
            {"choices": [{"index": 0, "delta": {"role": "assistant", "content": "Hello."}}]},
            {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        )
        lines = [f"data: {json.dumps(head | piece)}\n\n" for piece in pieces]
        return Answer(200, ("".join(lines) + "data: [DONE]\n\n").encode(), "text/event-stream")

    report = tmp_path / "up.json"
    async with serving(app_of(openai)) as gateway:
        own = {"GASTOWN_GATEWAY_URL": f"{gateway}/v1", "KILOCODE_TOKEN": "mine"}
        arguments = ("--exit-after-first-answer", "--model", "my/model", "--json", str(report))
        async with up(tmp_path / "town", *arguments, **own) as process:
            with trio.fail_after(120):
                assert await process.wait() == 0
    assert json.loads(report.read_text())["turn"]["text"] == "Hello."
    assert {path for path, _ in asked} <= {"/v1/models", "/v1/chat/completions"}
    assert {bearer for path, bearer in asked if path == "/v1/chat/completions"} == {"Bearer mine"}
    assert "gateway  that of GASTOWN_GATEWAY_URL" in (tmp_path / "up.log").read_text()


async def test_a_repository_that_was_named_once_is_browsed_by_the_mayor_from_then_on(tmp_path):
    async with open_git_server(tmp_path / "served") as server:
        server.make("one", {"a.txt": "one\n"})
        server.make("two", {"b.txt": "two\n"})
        listed, data = [], tmp_path / "town"
        for name, wanted in (("one", 1), ("two", 2), (None, 2)):
            report = tmp_path / f"up-{name}.json"
            rigs = ("--rig", f"{name}={server.url(name)}") if name else ()
            async with up(data, "--json", str(report), *rigs):
                await first_answer(report)
                listed.append(await eventually(partial(browsed, data, wanted), 60))
        gone = ("--rig", "gone=http://127.0.0.1:9/gone.git", "--rig", f"bare={server.url('one')}#missing")
        async with up(data, "--exit-after-first-answer", *gone) as process:
            await process.wait()
    said = (tmp_path / "up.log").read_text()
    assert "rig gone cannot be used: " in said
    assert "rig bare: The repository has no branch missing" in said
    assert listed == [{"one"}, {"one", "two"}, {"one", "two"}]


async def browsed(data: Path, wanted: int) -> set[str] | None:
    """The repositories that the mayor's instructions list with a checkout, once there are as many."""
    text = await trio.Path(data / "rigs" / "mayor-town" / "mayor-workspace" / "AGENTS.md").read_text()
    found = re.findall(r"^- (\w+): `(.*)` \(branch main\)$", text, re.MULTILINE)
    there = {name for name, folder in found if await trio.Path(folder, ".git").is_dir()}
    return there if len(there) == wanted else None


async def test_the_kill_of_gastown_up_ends_the_container_and_its_servers(tmp_path):
    report = tmp_path / "up.json"
    async with up(tmp_path / "town", "--message", "Good morning", "--json", str(report)) as process:
        await first_answer(report)
        below = descendants(process.pid)
        process.kill()
        await process.wait()

        async def gone() -> bool:
            return not alive(below)

        await eventually(gone, 60)


async def test_a_town_in_the_background_is_spoken_to_and_ended_by_commands(tmp_path):
    """Up without a terminal, one at a time; the mayor answers as it streams, and `down` leaves no process."""
    data = tmp_path / "town"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("KILO", "GASTOWN"))}

    async def gastown(*arguments: str) -> tuple[int, str, str]:
        done = await trio.run_process(
            [sys.executable, "-m", "gastown", *arguments, "--dir", str(data)],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env=environment | {"GASTOWN_KILO_BIN": str(KILO)},
            cwd=tmp_path,
        )
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    code, out, err = await gastown("up", "--port", "0", "--message", "Good morning", "--detach")
    assert (code, err) == (0, "")
    process = int(re.search(r"process (\d+)", out)[1])
    try:
        assert f"gastown mayor --dir {data} TEXT" in out
        code, _, err = await gastown("up", "--port", "0", "--detach")
        assert (code, f"{data} is in use by process {process}" in err) == (2, True)
        code, out, err = await gastown("mayor", "Which repositories do we have?")
        assert (code, err) == (0, "")
        assert "Which repositories" in out
        code, out, _ = await gastown("mayor", "And now?", "--json")
        assert (code, json.loads(out)["error"]) == (0, None)
        assert "says: " in (await gastown("logs", "mayor"))[1]
        below = descendants(process)
        assert await gastown("down") == (0, "the town is down\n", "gastown down: the town drains\n")
        assert alive(below) == []

        async def gone() -> bool:  # it says that it is down after it has let go of the directory
            return not alive([process])

        await eventually(gone, 10)
    finally:
        if alive([process]):
            os.kill(process, signal.SIGKILL)
    assert (data / "up.log").read_text().splitlines()[-1] == "the town is down"
