"""A terminal in the real kilo: opened, typed into, resized, looked at again, removed. Real time."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import httpx2
import pytest
import trio
from httpx2.websockets import WebSocketDisconnect

from gastown.testing.sockets import Closed, Socket, open_socket, refusal
from tests.kilo.town import RealTown, command_of, descendants, eventually, real_town

pytestmark = pytest.mark.kilo

DRAWN_SECONDS = 60.0


async def until_shown(viewer: Socket, text: str) -> str:
    """Read until `text` has been drawn; returns all that was shown."""
    shown = ""
    with trio.fail_after(DRAWN_SECONDS):
        while text not in shown:
            frame = await viewer.next()
            shown += frame if isinstance(frame, str) else ""
    return shown


def attached(town: RealTown) -> list[int]:
    return [pid for pid in descendants(town.container.pid) if command_of(pid)[1:2] == ["attach"]]


async def test_a_terminal_is_opened_typed_into_resized_and_looked_at_again(tmp_path: Path) -> None:
    async with (
        real_town(tmp_path) as town,
        httpx2.AsyncClient(base_url=town.url, headers=town.bearer, timeout=60) as client,
        httpx2.AsyncClient(timeout=60) as browser,
    ):
        agent = await town.hall.start_mayor(town.dispatch, "Hello.")
        ptys = f"/agents/{agent.agent_id}/pty"
        pty = (await client.post(ptys)).json()
        assert pty["status"] == "running"
        assert (await client.post(ptys)).json()["id"] == pty["id"]
        path, socket = f"{ptys}/{pty['id']}", town.url.replace("http", "ws", 1)
        async with open_socket(client, f"{socket}{path}/connect") as viewer:
            await until_shown(viewer, "Hello.")  # what was said in the session: its server has let it in
            [pid] = attached(town)
            assert "gts." not in " ".join(command_of(pid) + pty["args"])
            await type_until_shown(viewer, "zebra")
            changed = await client.put(path, json={"size": {"rows": 50, "cols": 140}})
            assert (changed.status_code, changed.json()["id"]) == (200, pty["id"])
            await until_shown(viewer, "\x1b[")  # it draws itself anew
        assert len(attached(town)) == 1
        assert (await refusal(browser, f"{socket}{path}/connect")).status == 401
        ticket = (await client.post(f"/agents/{agent.agent_id}/stream-ticket")).json()["ticket"]
        async with open_socket(browser, f"{socket}{path}/connect?cursor=0&ticket={ticket}") as viewer:
            await until_shown(viewer, "zebra")
            frame = await viewer.next()
            while isinstance(frame, str):
                frame = await viewer.next()
            assert frame[:1] == b"\x00"
            assert json.loads(frame[1:])["cursor"] > 0
            assert (await client.delete(path)).json() is True
            assert await viewer.closed() == Closed(1000, "The terminal has ended")

        async def none_attached() -> bool:
            return not attached(town)

        await eventually(none_attached)
        assert (await client.get(path)).status_code == 404
        again = (await client.post(ptys)).json()
        assert again["id"] != pty["id"]
        await client.post(f"/agents/{agent.agent_id}/stop")
        assert attached(town) == []


async def type_until_shown(viewer: Socket, text: str) -> None:
    """Type `text` until it is drawn: what comes before kilo listens to the keys is lost to it."""
    shown = ""
    with trio.fail_after(DRAWN_SECONDS):
        while text not in shown:
            for letter in text:
                await viewer.send(letter.encode())
            with trio.move_on_after(3), suppress(WebSocketDisconnect):
                while text not in shown:
                    frame = await viewer.next()
                    shown += frame if isinstance(frame, str) else ""
