"""The runner: what git is run with, what is said of its failures, and that nothing of it stays."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path

import pytest
import trio

from gastown.contract.git import Progress
from gastown.contract.secret import Secret
from gastown.git.command import OUTPUT_LIMIT, config_variables, run_git
from gastown.git.errors import (
    AuthFailed,
    Busy,
    GitError,
    GitFailed,
    NamesCollide,
    NetworkFailed,
    PushRaced,
    RepositoryNotFound,
    failure,
)
from gastown.git.progress import read_progress

ENV = {"PATH": os.environ["PATH"], "LC_ALL": "de_DE.UTF-8", "HOME": "/tmp"}


def stand_in(folder: Path, script: str) -> dict[str, str]:
    """An environment in which `git` is this Python script."""
    program = folder / "bin" / "git"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f"#!{sys.executable} -S\n{script}")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return ENV | {"PATH": f"{program.parent}:{os.environ['PATH']}"}


async def gone(pid: int) -> bool:
    with trio.move_on_after(5):
        while state(pid) not in ("gone", "Z"):
            await trio.sleep(0.01)
        return True
    return False


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "gone"


async def test_git_gets_no_configuration_but_ours(tmp_path):
    (tmp_path / ".gitconfig").write_text("[user]\n\tname = Somebody\n")
    said = await run_git(
        "config",
        "--list",
        "--name-only",
        cwd=str(tmp_path),
        env=ENV | {"HOME": str(tmp_path)},
        config=(("credential.helper", "x"),),
    )
    names = said.split()
    assert "user.name" not in names
    assert {"credential.helper", "gc.auto", "core.hookspath"} <= set(names)


async def test_git_gets_the_environment_that_it_is_given_and_its_own_rules(tmp_path):
    env = stand_in(tmp_path, "import json, os, sys; json.dump(dict(os.environ), sys.stdout)")
    got = json.loads(await run_git("status", cwd=str(tmp_path), env=env | {"MINE": "1"}))
    assert "GASTOWN_CONTAINER_TOKEN" not in got
    wanted = {
        "MINE": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_LFS_SKIP_SMUDGE": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "LC_ALL": "C.UTF-8",
        "HOME": "/nonexistent",
    }
    assert {name: got.get(name) for name in wanted} == wanted
    assert set(got) - set(wanted) <= {
        "PATH", "LANGUAGE", "LC_CTYPE", "GIT_CONFIG_NOSYSTEM", "GIT_ATTR_NOSYSTEM", "GIT_OPTIONAL_LOCKS",
        "GIT_ALLOW_PROTOCOL", "GIT_SSH_COMMAND", "GIT_CONFIG_COUNT", "GIT_CEILING_DIRECTORIES",
        *(name for name in got if name.startswith(("GIT_CONFIG_KEY_", "GIT_CONFIG_VALUE_"))),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("rig", "link"), [("rig", False), ("rig", True), ("rig:1", False)], ids=["plain", "through a link", "a colon"]
)
async def test_git_works_in_its_directory_s_repository_or_in_none(tmp_path, rig, link):
    """A damaged `.git` in a workspace below a checkout must not make that checkout what is worked in."""
    outer = tmp_path / "outer"
    inner = outer / "rigs" / rig / "inner"
    inner.mkdir(parents=True)
    for place in (outer, inner):
        await run_git("init", "--quiet", cwd=str(place), env=ENV)
    cwd = tmp_path / "elsewhere" if link else inner
    if link:
        cwd.symlink_to(inner)
    assert (await run_git("rev-parse", "--show-toplevel", cwd=str(cwd), env=ENV)).strip() == str(inner)
    (inner / ".git" / "HEAD").unlink()
    with pytest.raises(GitFailed, match="not a git repository"):
        await run_git("rev-parse", "--show-toplevel", cwd=str(cwd), env=ENV)


async def test_a_cancelled_git_is_told_first_and_its_group_is_gone_after(tmp_path):
    """At TERM git removes its lock files; KILL is for what does not listen."""
    env = stand_in(
        tmp_path,
        "import os, signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (open('told', 'w').close(), sys.exit(1)))\n"
        "child = subprocess.Popen(['sleep', '1000'])\n"
        "open('pids.new', 'w').write(f'{os.getpid()} {child.pid}'); os.rename('pids.new', 'pids')\n"
        "time.sleep(1000)\n",
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: run_git("fetch", cwd=str(tmp_path), env=env))
        while not (tmp_path / "pids").exists():
            await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert (tmp_path / "told").exists()
    assert [await gone(int(pid)) for pid in (tmp_path / "pids").read_text().split()] == [True, True]


async def test_a_git_that_does_not_listen_is_killed(tmp_path):
    env = stand_in(
        tmp_path,
        "import os, signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "open('pid.new', 'w').write(str(os.getpid())); os.rename('pid.new', 'pid')\ntime.sleep(1000)\n",
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: run_git("fetch", cwd=str(tmp_path), env=env))
        while not (tmp_path / "pid").exists():
            await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert await gone(int((tmp_path / "pid").read_text()))


async def test_a_grandchild_that_holds_the_pipe_does_not_hold_us(tmp_path):
    env = stand_in(tmp_path, "import subprocess\nsubprocess.Popen(['sleep', '1000'])\nprint('done', flush=True)\n")
    with trio.fail_after(20):
        assert await run_git("gc", cwd=str(tmp_path), env=env) == "done\n"


async def test_output_without_end_is_cut_and_an_error(tmp_path):
    env = stand_in(tmp_path, "while True: print('x' * 100000)")
    with pytest.raises(GitError, match=f"printed more than {OUTPUT_LIMIT} bytes"):
        await run_git("log", cwd=str(tmp_path), env=env)


async def test_a_directory_that_is_not_there_is_a_git_error(tmp_path):
    with pytest.raises(GitError, match="git status cannot run: No such file"):
        await run_git("status", cwd=str(tmp_path / "nowhere"), env=ENV)


async def test_what_an_error_says_has_no_credential_in_it(tmp_path):
    script = (
        "import sys\nsys.exit('fatal: https://me:hunter22@git.test/ refused my-secret-token ghp_" + "a" * 30 + "')"
    )
    with pytest.raises(GitFailed) as caught:
        await run_git(
            "push", cwd=str(tmp_path), env=stand_in(tmp_path, script), secrets=(Secret("my-secret-token"),)
        )
    said = str(caught.value) + caught.value.stderr
    assert "refused" in said
    assert not any(secret in said for secret in ("hunter22", "my-secret-token", "ghp_aaa"))


async def test_progress_is_told_and_is_not_a_last_word(tmp_path):
    script = (
        "import sys\nsys.stderr.write('Cloning...\\nReceiving objects:  45% (450/1000), 1 MiB\\r'"
        "'Receiving objects: 100% (1000/1000), done.\\nfatal: early EOF\\n')\nsys.exit(128)"
    )
    seen: list[Progress] = []
    with pytest.raises(NetworkFailed) as caught:
        await run_git("clone", cwd=str(tmp_path), env=stand_in(tmp_path, script), on_progress=seen.append)
    assert [(p.step, p.percent, p.done, p.total) for p in seen] == [
        ("receiving objects", 45, 450, 1000),
        ("receiving objects", 100, 1000, 1000),
    ]
    assert caught.value.stderr == "Cloning...\nfatal: early EOF"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("remote: Compressing objects:   7% (1/14)", ("compressing objects", 7, 1, 14)),
        ("Updating files: 100% (5000/5000), done.", ("updating files", 100, 5000, 5000)),
        ("remote: Enumerating objects: 14, done.", None),
        ("fatal: 45% (1/2)", None),
        ("", None),
    ],
)
def test_progress_is_read_from_the_lines_that_have_any(line, expected):
    read = read_progress(line)
    assert (read and (read.step, read.percent, read.done, read.total)) == expected


_NOT_UPDATED = """\
remote: error: cannot lock ref {}
 ! [remote rejected] HEAD -> main (failed to update ref)"""
SAID = {
    AuthFailed: [
        "fatal: Authentication failed for 'https://git.test/r.git/'",
        "fatal: could not read Username for 'https://git.test': terminal prompts disabled",
        "fatal: unable to access 'https://git.test/r.git/': The requested URL returned error: 403",
        "git@git.test: Permission denied (publickey).\nfatal: Could not read from remote repository.",
    ],
    RepositoryNotFound: [
        "fatal: repository 'https://git.test/r.git/' not found",
        "remote: Repository not found.\nfatal: repository 'https://github.com/o/r/' not found",
    ],
    NetworkFailed: [
        "fatal: unable to access 'https://git.test/': Could not resolve host: git.test",
        "fatal: unable to access 'https://git.test/': Failed to connect to git.test port 443: Connection refused",
        "error: RPC failed; HTTP 502 curl 22 The requested URL returned error: 502",
        "fetch-pack: unexpected disconnect while reading sideband packet\nfatal: early EOF",
        "error: RPC failed; curl 28 Operation too slow. Less than 1 bytes/sec transferred the last 30 seconds",
    ],
    PushRaced: [
        " ! [rejected]        HEAD -> main (fetch first)\nerror: failed to push some refs to 'x'",
        " ! [rejected]        HEAD -> main (non-fast-forward)",
        " ! [remote rejected] HEAD -> main (cannot lock ref 'refs/heads/main': is at a but expected b)",
        _NOT_UPDATED.format("'refs/heads/main': is at a1 but expected b2"),
        _NOT_UPDATED.format("'refs/heads/main': reference already exists"),
    ],
    NamesCollide: [
        _NOT_UPDATED.format("'refs/heads/w/1': 'refs/heads/w' exists; cannot create 'refs/heads/w/1'"),
        " ! [remote rejected] HEAD -> w (cannot lock ref 'r': there are still refs under 'r')",
    ],
    Busy: [
        "fatal: Unable to create '/w/.git/index.lock': File exists.",
        "error: cannot lock ref 'refs/remotes/origin/main': is at a but expected b",
        "error: could not lock config file .git/config: File exists",
    ],
    GitFailed: [
        " ! [remote rejected] HEAD -> main (failed to update ref)",
        " ! [remote rejected] HEAD -> main (pre-receive hook declined)",
        "fatal: 'main' is already checked out at '/w'",
        "",
    ],
}


@pytest.mark.parametrize(("kind", "said"), [(kind, said) for kind, saids in SAID.items() for said in saids])
def test_what_git_says_tells_the_kind_of_its_failure(kind, said):
    assert type(failure("push", 128, said)) is kind


def test_the_reason_is_the_first_line_that_says_one():
    said = "remote: hello\nfatal: the reason\nfatal: Could not read from remote repository.\n\nand advice"
    assert str(failure("fetch", 128, said)) == "git fetch failed with code 128: fatal: the reason"
    assert str(failure("fetch", 1, "")) == "git fetch failed with code 1: no message"


def test_configuration_in_the_environment_is_counted():
    assert config_variables([("a.b", "1"), ("a.b", "")]) == {
        "GIT_CONFIG_COUNT": "2",
        "GIT_CONFIG_KEY_0": "a.b",
        "GIT_CONFIG_VALUE_0": "1",
        "GIT_CONFIG_KEY_1": "a.b",
        "GIT_CONFIG_VALUE_1": "",
    }
