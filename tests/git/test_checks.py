"""Addresses, branches and paths: what is let through, for any text."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from gastown.contract.agents import StartAgentRequest
from gastown.contract.git import MergeRequest, Remote, SetupRequest, is_branch_name, is_revision
from gastown.git.workspace import WorkspacePaths
from gastown.testing.town import start_request

ENV = {"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
AWKWARD = st.text(alphabet="ab.-/@{}~^:?*[\\ \x00\x01\x7f\nHEADlockü\ud800", max_size=12)
BRANCHLIKE = st.lists(
    st.sampled_from(["a", "b", ".", "..", "/", "-", "@", "{", ".lock", "HEAD", "~", "ü"]), max_size=6
)


def git_takes(name: str) -> bool:
    try:
        asked = ["git", "check-ref-format", "--branch", name]
        return subprocess.run(asked, env=ENV, capture_output=True, check=False).returncode == 0
    except (ValueError, UnicodeEncodeError):
        return False


@settings(max_examples=300, deadline=None)
@given(st.one_of(AWKWARD, BRANCHLIKE.map("".join)))
def test_a_branch_name_that_we_take_is_one_that_git_takes(name):
    assert not is_branch_name(name) or git_takes(name)


@settings(max_examples=300, deadline=None)
@given(BRANCHLIKE.map("".join))
def test_a_branch_name_that_git_takes_is_one_that_we_take(name):
    """But those that git reads as something else: `@`, `@{-1}`, `-`, `HEAD/x`."""
    other = name == "@" or name.startswith(("-", "HEAD/")) or "@{" in name
    assert is_branch_name(name) or other or not git_takes(name)


@settings(max_examples=500)
@given(st.one_of(AWKWARD, BRANCHLIKE.map("".join), st.text(max_size=300)))
def test_the_directory_of_a_branch_that_we_take_lies_right_below_the_worktrees(name):
    if is_branch_name(name):
        path = WorkspacePaths("/root-of-all").worktree("rig", name)
        assert os.path.normpath(path) == path
        assert str(Path(path).parent) == "/root-of-all/rig/worktrees"
        assert len(os.fsencode(Path(path).name)) <= 200


@pytest.mark.parametrize(
    "name",
    ["", "-x", "--upload-pack=x", "a/../b", "..", "a..b", "a\nb", "a b", "/a", "a/", "a//b", "a.lock", "a/.b", "@",
     "HEAD", "HEAD/x", "refs/heads/main", "refs/x", "a@{1}", "a\\b", "a:b", "x" * 201, "\ud800"],
)  # fmt: skip
def test_what_the_contract_forbids_is_no_branch(name):
    assert not is_branch_name(name)
    assert not is_revision(name)


@pytest.mark.parametrize(
    "name", ["main", "feature/x-1", "gt/polecat/abc_1", "ünï", "v1.0", "a@b", "{x}", "1234567"]
)
def test_usual_names_are_branches(name):
    assert is_branch_name(name)
    assert is_revision(name)


GOOD = {
    "https://github.com/o/r.git": ("https://github.com", "o/r.git"),
    "https://github.com:443/o/r": ("https://github.com", "o/r"),
    "http://127.0.0.1:8080/r.git": ("http://127.0.0.1:8080", "r.git"),
    "https://GitHub.com/O/R": ("https://github.com", "O/R"),
    "https://gl.test/group/sub/r.git": ("https://gl.test", "group/sub/r.git"),
    "git@github.com:o/r.git": ("ssh://github.com", "o/r.git"),
    "ssh://git@github.com/o/r.git": ("ssh://github.com", "o/r.git"),
    "ssh://me.x@GIT.test:2222/~/r": ("ssh://git.test", "~/r"),
    "ssh://git.test/o/r": ("ssh://git.test", "o/r"),
    "https://[::1]:9/r": ("https://[::1]:9", "r"),
}
BAD = [
    "", "x", "ext::sh -c 'touch /x'", "file:///etc/passwd", "/etc/passwd", "../x", "git://h/x",
    "ssh://u:p@h/x", "ssh://-u@h/x", "ssh://-oX/x", "ssh://h/-x", "ssh://h", "ssh://h:x/y", "ssh://h/x?y", "ssh://h/../x",
    "ftp://h/x", "https://", "https:///x", "https://h", "https://h/", "https://-oProxyCommand=x/r", "git@-oX:r",
    "git@h:-x", "git@h:", "git@h:../x", "git@h:a/../../x", "https://h/../x", "https://h/a/%2e%2e/x", "https://h/x\n",
    "https://h/x y", "https://h/x?y", "https://h/x#y", "https://h:99999/x", "https://h:x/x", "https://h\\@evil/x", "-https://h/x",
    "https://h/-x", "--upload-pack=x", "x" * 3000, "https://h_st/x", "https://ex ample/x", "git@h@x:y",
    "http://u:abc%0ahost=evil%0a@h/x", "http://u%0dx@h/x", "http://u:a%00@h/x",
]  # fmt: skip


@pytest.mark.parametrize("url", GOOD)
def test_an_address_is_read(url):
    remote = Remote.parse(url)
    assert (remote.origin, remote.path) == GOOD[url]


@pytest.mark.parametrize("url", BAD)
def test_an_address_that_could_be_anything_else_is_refused_without_repeating_it(url):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - any of its sentences
        Remote.parse(url)
    assert len(url) < 6 or url not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "login"),
    [
        ("https://user:p%40ss@git.test/r.git", ("user", "p@ss")),
        ("https://some.name@git.test/r.git", ("some.name", None)),
        ("https://deadbeef@git.test/r.git", ("deadbeef", None)),
        (f"https://{'ghp_' + 'a1' * 18}@git.test/r.git", (None, "ghp_" + "a1" * 18)),
        (f"https://{'github_pat_' + 'a1' * 30}:@git.test/r.git", (None, "github_pat_" + "a1" * 30)),
        (f"https://{'glpat-' + 'a1' * 10}@git.test/r.git", (None, "glpat-" + "a1" * 10)),
        (f"https://{'0a' * 20}:x-oauth-basic@git.test/r.git", (None, "0a" * 20)),
        ("https://git.test/r.git", (None, None)),
    ],
)
def test_credentials_in_an_address_are_taken_out_of_it(url, login):
    remote = Remote.parse(url)
    assert remote.url == "https://git.test/r.git"
    password = remote.password and remote.password.reveal()
    assert (remote.username, password) == login
    assert "ss" not in repr(remote).replace("password", "")
    assert "token" not in repr(remote)


@settings(max_examples=500)
@given(
    st.one_of(AWKWARD, st.text(max_size=60)),
    st.sampled_from(["https://h.test/", "http://u:p@h.test/", "ssh://u@h.test/", "git@h.test:", ""]),
)
def test_an_address_that_we_take_is_an_argument_and_a_host_that_cannot_be_mistaken(rest, start):
    try:
        remote = Remote.parse(start + rest)
    except ValueError:
        return
    assert remote.url.startswith(("https://", "http://", "ssh://", "git@"))
    assert "@" not in remote.host
    assert ".." not in remote.path.split("/")
    assert not any(character.isspace() or ord(character) < 32 for character in remote.url)
    assert Remote.parse(remote.url).url == remote.url


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(["a", "..", ".", "link", "in", "/", ""]), max_size=7))
def test_no_path_leads_out_of_the_root(tmp_path_factory, parts):
    base = tmp_path_factory.getbasetemp() / "links"
    root = base / "root"
    if not root.exists():
        (root / "in").mkdir(parents=True)
        (base / "outside").mkdir()
        (root / "link").symlink_to(base / "outside")
        (root / "in" / "link").symlink_to("../..")
    path = f"{root}/{'/'.join(parts)}"
    real = Path(path).resolve()
    assert WorkspacePaths(str(root)).contains(path) == (real.is_relative_to(root) and real != root)


BODY = {
    "agentId": "a1", "rigId": "r1", "townId": "t1", "role": "polecat", "name": "Nux", "identity": "", "prompt": "",
    "model": "m", "gitUrl": "https://git.test/r.git", "branch": "b", "defaultBranch": "main",
}  # fmt: skip
WRONG = {"gitUrl": "file:///etc", "branch": "-b", "defaultBranch": "a..b", "startPoint": "--x"}


@pytest.mark.parametrize("key", WRONG)
def test_a_start_with_any_of_them_wrong_is_refused_before_anything_runs(key):
    with pytest.raises(ValidationError, match=key):
        StartAgentRequest.model_validate(BODY | {key: WRONG[key]})


def test_a_mayor_needs_none_of_them():
    StartAgentRequest.model_validate(BODY | {"role": "mayor", "gitUrl": "", "branch": "", "defaultBranch": ""})


SETUP = {"rigId": "r", "gitUrl": "https://git.test/r.git", "defaultBranch": "main"}
NO_ADDRESSES = (
    "file:///x", "http:///x", "http://h/a b", "http://h/a\x01b", "http://h/\x7f", "http://h/\ud800", "https://h:abc/",
    "http://h:99999/", "http://[::1/", "http://a..b/", f"http://{'a' * 64}.example/", "http://h/" + "x" * 2000,
)  # fmt: skip
MERGE = {
    "townId": "t", "rigId": "r", "branch": "b", "targetBranch": "main", "gitUrl": "https://git.test/r.git",
    "entryId": "e", "beadId": "b", "agentId": "a",
}  # fmt: skip


@pytest.mark.parametrize(
    ("model", "body", "wrong"),
    [
        *((SetupRequest, SETUP, {key: value}) for key, value in
          {"rigId": "../x", "gitUrl": "file:///x", "defaultBranch": "-x"}.items()),
        *((MergeRequest, MERGE, {key: value}) for key, value in
          {"rigId": "..", "gitUrl": "/x", "branch": "a b", "targetBranch": "", "entryId": "e/../x"}.items()),
        *((MergeRequest, MERGE, {"callbackUrl": url}) for url in NO_ADDRESSES),
    ],
)  # fmt: skip
def test_a_setup_and_a_merge_are_checked_key_by_key(model, body, wrong):
    model.model_validate(body)
    with pytest.raises(ValidationError) as caught:
        model.model_validate(body | wrong)
    assert [error["loc"] for error in caught.value.errors()] == [tuple(wrong)]


@pytest.mark.parametrize("url", NO_ADDRESSES)
def test_a_start_asks_for_its_completion_at_an_address(url):
    with pytest.raises(ValidationError) as caught:
        StartAgentRequest.model_validate(start_request() | {"completionCallbackUrl": url})
    assert [error["loc"] for error in caught.value.errors()] == [("completionCallbackUrl",)]


@pytest.mark.parametrize(
    "url", ["http://h", "https://[::1]:8080/x", "https://ü.example/ü?a=b#c", "http://u:p@127.0.0.1/"]
)
def test_what_can_be_called_is_an_address(url):
    assert MergeRequest.model_validate(MERGE | {"callbackUrl": url}).callback_url == url
