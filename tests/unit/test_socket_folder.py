"""git's helpers ask over a socket, whose path may have 107 bytes whatever TMPDIR is."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
import trio

from gastown.git import helper_service
from gastown.git.helper_service import NoSocketFolder, make_socket_folder, open_helper_service


@pytest.fixture
def long_tmpdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / ("long-" * 30)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


class NoCredentials:
    """Nothing is asked of it."""


async def test_a_long_tmpdir_has_its_socket_in_a_short_folder_of_ours_alone(long_tmpdir: Path) -> None:
    async with open_helper_service(NoCredentials()) as access:  # type: ignore[arg-type]
        async with await trio.open_unix_socket(access.socket):
            pass
        folder = await trio.Path(access.socket).parent.stat()
        assert (folder.st_mode & 0o777, folder.st_uid) == (0o700, os.geteuid())
    assert not await trio.Path(access.socket).parent.exists()
    assert list(long_tmpdir.iterdir()) == []  # noqa: ASYNC240


def test_where_no_folder_is_short_enough_one_sentence_says_what_to_set(
    long_tmpdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(helper_service, "_SHORT", "/dev/null")
    with pytest.raises(NoSocketFolder, match="set TMPDIR to a folder"):
        make_socket_folder()
    assert list(long_tmpdir.iterdir()) == []


def test_where_no_temporary_folder_can_be_written_one_sentence_says_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(NoSocketFolder, match=r"No such file or directory.*set TMPDIR to one that can be written"):
        make_socket_folder()
