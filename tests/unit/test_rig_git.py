"""A rig's credentials and fetches, and the files that hold something private, without a git server."""

from __future__ import annotations

import hashlib
import sqlite3
import stat
from pathlib import Path
from typing import Any

import pytest
import trio

from gastown.contract.git import Remote
from gastown.contract.secret import Secret
from gastown.contract.town import GitAuth
from gastown.git.access import HelperAccess
from gastown.git.credentials import GitCredentials
from gastown.git.helper_service import open_helper_service
from gastown.git.repos import Clone, _Known
from gastown.git.rig import GitLimits, Rig, RigReport, Tools
from gastown.git.workspace import WorkspacePaths
from gastown.isolation.ownership import write_whole
from gastown.worker.snapshots.database import database_path, unpack

RIG = Rig("r", Remote.parse("https://git.test/r.git"), "main")


class NoTokens:
    """A worker and a platform that have no token."""

    async def renewed(self, rig_id: str) -> Secret | None:
        return None

    async def integration(self, integration_id: str) -> GitAuth | None:
        return None


def rig_credentials(**given: str) -> GitCredentials:
    credentials = GitCredentials(GitAuth, NoTokens())
    register(credentials, **given)
    return credentials


def register(credentials: GitCredentials, **given: str) -> None:
    tokens = {name: Secret(value) for name, value in given.items()}
    credentials.register_rig("r", RIG.remote, given=tokens)


def test_a_token_that_was_refused_and_replaced_is_still_redacted() -> None:
    """It may be good elsewhere, and a git that was started with it may still speak of it."""
    credentials = rig_credentials(GIT_TOKEN="old-token")
    credentials.refuse(hashlib.sha256(b"old-token").hexdigest())
    register(credentials, GIT_TOKEN="new-token")
    assert {secret.reveal() for secret in credentials.secrets()} == {"old-token", "new-token"}


@pytest.mark.virtual_time
async def test_a_start_that_comes_while_a_fetch_runs_fetches_again() -> None:
    """What was pushed after that fetch had begun may not be in it, and the start may ask for just that."""
    fetched: list[float] = []

    async def run(*arguments: str, **_: Any) -> str:
        if arguments[0] == "fetch":
            fetched.append(trio.current_time())
            await trio.sleep(2)
        return ""

    limits = GitLimits(clone=60, operation=60)
    access = HelperAccess("/nonexistent", b"secret")
    tools = Tools(run, {}, WorkspacePaths("/nonexistent"), rig_credentials(), access, limits)
    known = _Known(RigReport("r"))
    began = trio.current_time()
    await Clone(tools, RIG, known, arrived=began).fetch()
    await Clone(tools, RIG, known, arrived=began).fetch()
    assert fetched == [began]
    await Clone(tools, RIG, known, arrived=began + 1).fetch()
    assert fetched == [began, began + 2]


async def test_only_its_user_can_reach_the_socket_that_gives_out_credentials() -> None:
    async with open_helper_service(rig_credentials()) as access:
        socket = Path(access.socket)
        modes = [stat.S_IMODE((await trio.Path(place).stat()).st_mode) for place in (socket, socket.parent)]
    assert modes == [0o600, 0o700]


def test_a_fetched_conversation_can_be_read_by_its_owner_alone(tmp_path: Path) -> None:
    """An empty database of SQLite is one page; its mode is that of the draft, which is put in place as it is."""
    path = database_path(str(tmp_path))
    path.parent.mkdir(parents=True)

    with sqlite3.connect(":memory:") as connection:
        connection.execute("CREATE TABLE message (word TEXT)")
        draft = unpack(connection.serialize(), path)
    assert draft is not None
    assert stat.S_IMODE(draft.stat().st_mode) == 0o600


def test_a_file_is_written_with_its_mode_also_in_place_of_one_that_all_could_read(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("before")
    path.chmod(0o644)
    write_whole(path, "secret", 0o600)
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("secret", 0o600)
