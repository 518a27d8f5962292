"""A container gets its next token before the last one ends, also when the machine has slept."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path

import pytest
import trio

from gastown.contract.secret import Secret
from gastown.contract.town import RefreshAnswer
from gastown.hall.cli import bringup, up
from gastown.hall.cli.boot import Boot, UpOptions
from gastown.hall.cli.renewal import renew
from gastown.hall.cli.screen import Screen
from gastown.hall.control_client import ControlCallFailed, ControlClient
from gastown.hall.hall import Hall, HallOptions, open_hall
from gastown.hall.tokens import LIFETIME, verify
from gastown.isolation.ownership import write_whole

pytestmark = pytest.mark.virtual_time

MORNING = datetime(2030, 5, 1, 8, tzinfo=UTC)


class WallClock:
    """Goes with Trio's, and on while the machine sleeps."""

    def __init__(self) -> None:
        self.slept = timedelta()

    def __call__(self) -> datetime:
        return MORNING + timedelta(seconds=trio.current_time()) + self.slept


@pytest.fixture
def clock() -> WallClock:
    return WallClock()


@pytest.fixture
async def hall(tmp_path: Path, inline: None, clock: WallClock) -> AsyncIterator[Hall]:
    async with open_hall(HallOptions(data_dir=tmp_path, now=clock)) as hall:
        yield hall


async def is_good(hall: Hall, token: Secret, left: timedelta) -> bool:
    secret = await hall.store.jwt_secret(hall.town_id)
    return secret is not None and verify(token, secret, hall.now() + left) == hall.town_id


async def test_what_cannot_be_given_is_tried_again_a_minute_later(clock: WallClock) -> None:
    tries: list[float] = []

    async def give() -> bool:
        tries.append(trio.current_time())
        return len(tries) > 2

    with trio.move_on_after(2 * 3600 + 300):
        await renew(clock, give, given=MORNING, every=timedelta(hours=1))
    assert tries == [3600, 3660, 3720, 2 * 3600 + 120]


async def test_a_container_can_start_from_the_file_of_a_hall_however_old_that_is(
    hall: Hall, clock: WallClock, tmp_path: Path
) -> None:
    path = tmp_path / "container.env"

    async def token() -> Secret:
        assert stat.S_IMODE((await trio.Path(path).stat()).st_mode) == 0o600
        lines = (await trio.Path(path).read_text()).splitlines()
        return Secret(dict(line.split("=", 1) for line in lines)["GASTOWN_CONTAINER_TOKEN"])

    async with up._kept_written(hall, path, None):
        first = await token()
        assert await is_good(hall, first, LIFETIME - timedelta(seconds=1))
        await trio.sleep(30)
        for _ in range(30):
            await trio.sleep(3600)
            assert await is_good(hall, await token(), timedelta(hours=6))
        clock.slept = timedelta(hours=12)
        await trio.sleep(61)
        assert await is_good(hall, await token(), timedelta(hours=7))
        assert first != await token()
    assert not await trio.Path(path).exists()


async def test_a_file_is_replaced_and_never_half_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "container.env"
    write_whole(path, "one", 0o600)
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("the disk is full")))
    with pytest.raises(OSError, match="full"):
        write_whole(path, "two", 0o600)
    assert path.read_text() == "one"


class NotingContainer(ControlClient):
    """Keeps the tokens that it is given; refuses the first one."""

    def __init__(self) -> None:
        self.given: list[tuple[float, Secret]] = []

    async def refresh_token(self, token: Secret, town_id: str) -> RefreshAnswer:
        self.given.append((trio.current_time(), token))
        if len(self.given) == 1:
            raise ControlCallFailed(None, {"error": "gone for a moment"}, call="POST /refresh-token")
        return RefreshAnswer(refreshed=True, agents_restarted=0, agents_failed=0, results=())


async def test_a_container_that_slept_through_the_end_of_its_token_is_given_another(
    hall: Hall, clock: WallClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    container = NotingContainer()
    options = UpOptions(hall=HallOptions(data_dir=Path("/nowhere")), environment={})
    boot = Boot(options, Screen(StringIO()), hall, container, 0.0, MORNING)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bringup._keep_token_fresh, boot)
        await trio.sleep(3630)  # never at the moment at which it looks, too
        assert container.given == []
        clock.slept = timedelta(hours=20)
        await trio.sleep(120)
        assert [moment for moment, _ in container.given] == [3660, 3720]
        assert await is_good(hall, container.given[-1][1], LIFETIME - timedelta(minutes=1))
        await trio.sleep(7.6 * 3600)
        assert len(container.given) == 3
        nursery.cancel_scope.cancel()
