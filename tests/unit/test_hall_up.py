"""The commands `gastown up` and `gastown hall`: arguments, locks, exit codes."""

from __future__ import annotations

import logging
import os
from argparse import ArgumentParser, Namespace
from dataclasses import replace
from functools import partial
from io import StringIO
from pathlib import Path

import pytest

from gastown.contract.secret import Secret
from gastown.contract.town import GitAuth
from gastown.hall.app import LOGGER
from gastown.hall.cli import up
from gastown.hall.cli.arguments import add_arguments, add_hall_arguments
from gastown.hall.cli.screen import Screen, open_screen
from gastown.hall.cli.up import run
from gastown.hall.cli.waterfall import Bar
from gastown.hall.domain.town import RigRecord
from gastown.hall.hall import HallOptions, open_hall
from gastown.hall.lock import DirectoryUnusable, only_one


def parsed(*arguments: str) -> Namespace:
    parser = ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--port", "65536"),
        ("--port", "-1"),
        ("--port", "x"),
        ("--message", " "),
        ("--turn-seconds", "-1"),
        ("--turn-seconds", "nan"),
        ("--turn-seconds", "x"),
        ("--town", "../x"),
        ("--town", ""),
        ("--rig", "https://x.test/r.git"),
        ("--rig", "git@x.test:r.git"),
        ("--rig", "no-such-folder"),
        ("--rig", "r=ssh://user:password@x.test/r.git"),
        ("--rig", "r=ssh://-oProxyCommand=x/r.git"),
        ("--rig", "r=ssh://-u@x.test/r.git"),
        ("--rig", "../r=https://x.test/r.git"),
        ("--rig", "r=ftp://x.test/r.git"),
        ("--rig", "r=/repos/r"),
        ("--rig", "r=-u"),
        ("--rig", "r=https://x.test/r.git?a=b"),
        ("--rig", "r=https://x.test/r.git#-b"),
    ],
)
def test_what_cannot_be_meant_is_refused_at_once(arguments: tuple[str, str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parsed(*arguments)
    assert ended.value.code == 2


def test_both_commands_know_where_the_town_is() -> None:
    parser = ArgumentParser()
    add_hall_arguments(parser)
    assert parser.parse_args(["--dir", "/x", "--town", "oak"]).dir == Path("/x")
    assert parsed("--town", "oak").dir is None


def test_repositories_are_named_with_their_addresses_and_branches() -> None:
    rigs = parsed("--rig", "r=https://x.test/a=b.git", "--rig", "s=git@x.test:s#trunk").rigs
    assert [(rig.rig_id, rig.git_url, rig.default_branch) for rig in rigs] == [
        ("r", "https://x.test/a=b.git", "main"),
        ("s", "git@x.test:s", "trunk"),
    ]
    assert parsed().rigs == []


def test_a_login_in_an_address_is_not_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed("--rig", "r=https://canary@x.test/../r")
    assert "canary" not in capsys.readouterr().err + repr(parsed("--rig", "r=https://canary@x.test/r"))


def run_in(folder: Path, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, str]:
    code = run(parsed("--dir", str(folder), "--port", "0", *more), {"PATH": os.environ["PATH"]})
    return code, capsys.readouterr().err


def test_a_directory_in_use_is_one_line_that_names_the_process(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with only_one(tmp_path):
        code, said = run_in(tmp_path, capsys)
    assert code == 2
    assert said == f"gastown up: {tmp_path} is in use by process {os.getpid()}; stop it, or choose another --dir\n"


def test_a_directory_that_cannot_be_made_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    code, said = run_in(tmp_path / "file" / "x", capsys)
    assert (code, said.count("\n")) == (2, 1)
    assert "cannot write to" in said


def test_a_file_that_is_no_database_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "hall.db").write_text("notes " * 1000)
    code, said = run_in(tmp_path, capsys)
    assert (code, said.count("\n")) == (2, 1)
    assert "as a database" in said


def test_a_report_that_cannot_be_written_is_told_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = run_in(tmp_path / "town", capsys, "--json", str(tmp_path / "no" / "x.json"))
    assert (code, said.count("\n")) == (1, 1)
    assert not (tmp_path / "town").exists()


def test_the_log_of_a_hall_shows_nothing_secret_of_its_town(
    tmp_path: Path,
) -> None:
    canaries = [f"canary-{name}" for name in ("gateway", "login", "github")]

    async def command(options: HallOptions) -> int:
        async with open_hall(options) as hall:
            await hall.store.change_town("town", {"git_auth": GitAuth(github_token=Secret(canaries[2]))})
        async with open_hall(replace(options, rigs=())):
            logging.getLogger(f"{LOGGER}.server").warning("heard %s", canaries)
        return 0

    rigs = [RigRecord(rig_id="r", git_url=f"https://user:{canaries[1]}@x.test/r", default_branch="main")]
    options = HallOptions(data_dir=tmp_path, kilocode_token=Secret(canaries[0]), rigs=rigs)
    assert up._run("gastown up", partial(command, options), options, Screen(StringIO())) == 0
    written = (tmp_path / "hall.log").read_text()
    assert "heard" in written
    assert "canary" not in written


def test_a_directory_is_free_again_after_its_block(tmp_path: Path) -> None:
    for _ in range(2):
        with only_one(tmp_path / "town"):
            pass
    assert (tmp_path / "town").stat().st_mode & 0o777 == 0o700


def test_a_lock_is_not_had_twice(tmp_path: Path) -> None:
    with only_one(tmp_path), pytest.raises(DirectoryUnusable, match=str(os.getpid())), only_one(tmp_path):
        pass


def test_a_models_text_cannot_steer_the_terminal() -> None:
    out = StringIO()
    Screen(out).say("a\x1b[2Jb\rc\td\n\x9b1m")
    assert out.getvalue() == "a[2Jbc\td\n1m"


def test_a_line_never_continues_a_models_text() -> None:
    out = StringIO()
    screen = Screen(out)
    screen.say("half")
    screen.line("note")
    screen.say("whole\n")
    screen.end_line()
    assert out.getvalue() == "half\nnote\nwhole\n"


def test_what_is_no_terminal_gets_no_colour() -> None:
    screen = open_screen(StringIO(), {})
    screen.waterfall([Bar("x", 0, 1)])
    assert (screen.colour, screen.blocks, screen.width) == (False, False, 100)
