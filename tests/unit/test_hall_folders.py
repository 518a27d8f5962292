"""Folders of this machine as rigs: what `--rig` takes, and the sentence that refuses what cannot be one."""

from __future__ import annotations

import os
import subprocess
from argparse import ArgumentParser
from dataclasses import replace
from io import StringIO
from pathlib import Path
from unittest.mock import Mock

import pytest

from gastown.contract.secret import Secret
from gastown.hall.cli.arguments import add_arguments
from gastown.hall.cli.boot import Boot, UpOptions
from gastown.hall.cli.bringup import _name_the_folder
from gastown.hall.cli.screen import Screen
from gastown.hall.domain.town import RigRecord, TownRecord, located, resumed_registry
from gastown.hall.folders import Folder, NoFolder, find_folder
from gastown.hall.hall import HallOptions, open_hall


def git(place: Path, *arguments: str) -> None:
    known = {f"GIT_{who}_{what}": "x" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    env = {"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": "/dev/null", **known}
    subprocess.run(["git", *arguments], cwd=place, env=env, check=True, capture_output=True)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A repository on the branch `trunk`, with a folder in it and another branch."""
    place = tmp_path / "site"
    (place / "sub").mkdir(parents=True)
    git(place, "init", "--initial-branch=trunk")
    git(place, "commit", "--allow-empty", "-m", "x")
    git(place, "branch", "other")
    return place


def rig_of(text: str) -> RigRecord:
    parser = ArgumentParser()
    add_arguments(parser)
    (rig,) = parser.parse_args(["--rig", text]).rigs
    assert isinstance(rig, RigRecord)
    return rig


def test_a_folder_needs_nothing_but_its_place(site: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its name is its ID, and the branch that is checked out is the one to merge into."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(site / "sub")
    wanted = RigRecord(rig_id="site", git_url="", default_branch="trunk", folder=str(site))
    for text in (
        ".",
        "..",
        str(site),
        f"{site}/sub/",
        "~/site",
        "../../site",
        f"file://{site}",
        f"{site}/.git/..",
    ):
        assert rig_of(text) == wanted
    monkeypatch.chdir(tmp_path)
    assert rig_of("site") == wanted
    assert rig_of("here=site#other") == RigRecord(
        rig_id="here", git_url="", default_branch="other", folder=str(site)
    )


async def test_in_a_repository_a_town_without_rigs_is_told_the_command(
    site: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is named, and nothing is changed. A town with a model is told elsewhere, too; one that has a rig is not,
    unless the rig is a demo's, which no model plays.
    """
    options, where = HallOptions(data_dir=tmp_path / "town"), f" --dir {tmp_path / 'town'}\n"
    here = f"rigs     none; for the repository in {site}: gastown rig add .{where}"
    demo = RigRecord(rig_id="demo", git_url="", default_branch="main", folder=str(tmp_path / "town" / "demo"))
    for place, rigs, token, wanted in (
        (site, [], None, here),
        (tmp_path, [], None, ""),
        (tmp_path, [], Secret("real"), f"rigs     none; for a repository: gastown rig add PLACE{where}"),
        (site, [demo], Secret("real"), here),
        (site, [demo], None, ""),
        (site, [demo, REMOTE], Secret("real"), ""),
    ):
        monkeypatch.chdir(place)
        shown = StringIO()
        async with open_hall(replace(options, rigs=rigs, kilocode_token=token)) as hall:
            boot = Boot(UpOptions(hall=options, environment={}), Screen(shown), hall, Mock(), 0, hall.now())
            await _name_the_folder(boot)
            assert {rig.rig_id for rig in (await hall.town()).rigs} == {rig.rig_id for rig in rigs}
        assert shown.getvalue() == wanted


def test_a_bare_repository_is_named_without_its_ending(site: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "--bare", str(site), "store.git")
    found = find_folder(str(tmp_path / "store.git"))
    assert (found, found.name) == (Folder(str(tmp_path / "store.git"), "trunk"), "store")


def test_what_steers_git_in_the_surroundings_names_no_other_repository(
    site: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As in a hook, which git starts with variables of its own."""
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path))
    assert find_folder(str(site)).place == str(site)


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("no", "is no folder of this machine"),
        (".", "is not a git repository"),
        ("site/.git", "is git's own folder"),
        ("site/sub/file", "is a file"),
        ("detached", "has no branch checked out"),
    ],
)
def test_what_cannot_be_a_rig_is_refused_with_the_reason(site: Path, tmp_path: Path, place: str, why: str) -> None:
    (site / "sub" / "file").write_text("")
    git(tmp_path, "clone", str(site), "detached")
    git(tmp_path / "detached", "checkout", "--detach")
    with pytest.raises(NoFolder, match=why):
        find_folder(str(tmp_path / place))


def test_a_branch_that_is_not_there_is_refused(site: Path) -> None:
    with pytest.raises(NoFolder, match="has no branch gone"):
        find_folder(str(site), "gone")


def test_a_name_that_cannot_be_an_id_asks_for_one(
    site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = site.rename(tmp_path / "my site")
    with pytest.raises(SystemExit):
        rig_of(str(odd))
    assert "needs an ID" in capsys.readouterr().err
    assert rig_of(f"site={odd}").folder == str(odd)


FOLDER = RigRecord(rig_id="site", git_url="", default_branch="main", folder="/srv/site")
REMOTE = RigRecord(rig_id="api", git_url="https://x.test/api.git", default_branch="main")
TOWN = TownRecord(id="oak", name="oak", mayor_agent_id="m1", rigs=(REMOTE, FOLDER))


def test_a_container_is_told_http_and_never_the_folder() -> None:
    """An address of the hall, with a login in it; other rigs keep theirs."""
    town = located(TOWN, "http://127.0.0.1:9", Secret("t"))
    assert [rig.git_url for rig in town.rigs] == [
        "https://x.test/api.git",
        "http://gastown:t@127.0.0.1:9/git/oak/site.git",
    ]


def test_agents_of_a_folder_go_on_at_the_halls_new_address() -> None:
    """The hall may have another port after a restart, and the last one's logins have ended."""
    town = located(TOWN, "http://127.0.0.1:9", Secret("t"))
    old = "http://gastown:old@127.0.0.1:7/git/oak/site.git"
    entries = [
        {"agentId": "p1", "request": {"rigId": "site", "gitUrl": old, "role": "polecat"}},
        {"agentId": "p2", "request": {"rigId": "api", "gitUrl": REMOTE.git_url, "role": "polecat"}},
        {"agentId": "m1", "request": {"rigId": "mayor-oak", "gitUrl": "", "role": "mayor"}},
    ]
    first, second, mayor = resumed_registry(entries, town)
    assert first["request"]["gitUrl"] == "http://gastown:t@127.0.0.1:9/git/oak/site.git"
    assert second == entries[1]
    assert [rig["gitUrl"] for rig in mayor["request"]["rigs"]] == [
        "https://x.test/api.git",
        "http://gastown:t@127.0.0.1:9/git/oak/site.git",
    ]
