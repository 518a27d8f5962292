"""Tokens on their way from whoever has them to git: against a real git server that wants them."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pytest
import trio

from gastown.contract.git import Remote
from gastown.contract.identifiers import is_identifier
from gastown.contract.secret import Secret
from gastown.contract.town import GitAuth
from gastown.git import credential_helper
from gastown.git.credentials import ANY_RIG, GitCredentials
from gastown.git.errors import AuthFailed
from tests.git.conftest import Life, Place
from tests.git.test_worktrees import FILES, worktree


def given(place: Place, life: Life, token: str, rig: str = "r") -> None:
    life.credentials.register_rig(rig, place.rig(rig).remote, given={"GIT_TOKEN": Secret(token)})


async def test_a_token_that_a_request_brought_opens_the_repository(place):
    place.server.make("r", FILES)
    place.server.tokens = {"token-1"}
    async with place.life() as life:
        given(place, life, "token-1")
        assert (await worktree(place, life)).how == "created"
    assert place.server.passwords() == [None, "token-1"]


async def test_a_password_in_the_address_opens_the_repository_and_stays_off_the_disk(place):
    place.server.make("r", FILES)
    place.server.tokens = {"in-the-address"}
    remote = Remote.parse(f"http://user:in-the-address@127.0.0.1:{place.server.port}/r.git")
    async with place.life() as life:
        life.credentials.register_rig("r", remote)
        await worktree(place, life)
        assert "in-the-address" not in (place.clone() / ".git" / "config").read_text()


async def test_a_platform_integration_is_asked_when_nobody_gave_a_token(place):
    place.server.make("r", FILES)
    place.server.tokens = {"of-the-platform"}
    place.source.integrations["int-1"] = GitAuth(github_token="of-the-platform")
    async with place.life() as life:
        life.credentials.register_rig("r", place.rig("r").remote, integration_id="int-1")
        await worktree(place, life)
    assert place.source.asked == ["int-1"]


async def test_a_lone_user_name_in_the_address_is_never_sent_as_a_password(place):
    """It is the user whose token GIT_TOKEN is, and nothing that has to be hidden."""
    place.server.make("r", FILES)
    place.server.tokens = {"token-1"}
    remote = Remote.parse(f"http://some.name@127.0.0.1:{place.server.port}/r.git")
    async with place.life() as life:
        life.credentials.register_rig("r", remote, given={"GIT_TOKEN": Secret("token-1")})
        await worktree(place, life)
        assert [secret.reveal() for secret in life.credentials.secrets()] == ["token-1"]
        assert await Asking(place, life)("r", place.server.url("r")) == "some.name:token-1"
    assert place.server.passwords() == [None, "token-1"]


async def test_a_lone_user_name_without_a_token_is_sent_nowhere(place):
    place.server.make("r", FILES)
    place.server.tokens = {"token-1"}
    async with place.life() as life:
        life.credentials.register_rig("r", Remote.parse(f"http://some.name@127.0.0.1:{place.server.port}/r.git"))
        with pytest.raises(AuthFailed):
            await worktree(place, life)
    assert place.server.passwords() == [None]


async def test_a_token_that_stands_alone_in_the_address_is_tried_last(place):
    place.server.make("r", FILES)
    token = "glpat-" + "a1" * 10
    place.server.tokens = {token}
    remote = Remote.parse(f"http://{token}@127.0.0.1:{place.server.port}/r.git")
    async with place.life() as life:
        life.credentials.register_rig("r", remote, given={"GIT_TOKEN": Secret("too-old")})
        assert (await worktree(place, life)).how == "created"
    assert place.server.passwords() == [None, "too-old", token]


@pytest.mark.parametrize("password", ["abc\nhost=evil\n", "abc\n", "a\rb", "a\0b"])
async def test_a_token_with_a_line_break_is_told_to_no_git_and_another_one_is_taken(place, password):
    """It would be another line of what git is told: another host, another user."""
    async with place.life() as life:
        ask, remote = Asking(place, life), Remote.parse("https://git.test/o/r.git")
        life.credentials.register_rig("r", remote, given={"GIT_TOKEN": Secret(password)})
        assert await ask("r", "https://git.test/o/r.git") == "nothing"
        place.town = GitAuth(github_token=Secret(password))
        assert await ask("*", "https://github.com/o/r.git") == "nothing"
        life.credentials.register_rig("r", remote, given={"GITHUB_TOKEN": Secret("good")})
        assert await ask("r", "https://git.test/o/r.git") == "x-access-token:good"


def test_the_helper_itself_tells_git_no_line_break(capsys, monkeypatch):
    monkeypatch.setattr(credential_helper, "ask", lambda *_: {"username": "u", "password": "abc\nhost=evil"})
    monkeypatch.setattr("sys.argv", ["helper", "get"])
    monkeypatch.setattr("sys.stdin", io.StringIO("protocol=https\nhost=git.test\n\n"))
    monkeypatch.setenv("GASTOWN_GIT_SOCKET", "/nowhere")
    monkeypatch.setenv("GASTOWN_GIT_KEY", "r/a/0/x")
    assert credential_helper.main() == 0
    said = capsys.readouterr()
    assert (said.out, "control character" in said.err) == ("", True)


async def test_an_agents_push_uses_the_live_token_and_the_next_one_the_renewed(place):
    place.server.make("r", FILES)
    place.server.tokens = {"old"}
    place.source.fresh = ["new"]
    async with place.life() as life:
        given(place, life, "old")
        path = Path((await worktree(place, life)).path)
        await place.git(path, "commit", "--allow-empty", "-m", "one")
        await place.git(path, "push", "origin", "HEAD", life=life)
        place.server.tokens = {"new"}
        await place.git(path, "commit", "--allow-empty", "-m", "two")
        refused = await place.git(path, "push", "origin", "HEAD", life=life, check=False)
        assert "Authentication failed" in refused
        await place.git(path, "push", "origin", "HEAD", life=life)
        assert place.server.tip("r", "work/1") == (await place.git(path, "rev-parse", "HEAD")).strip()
    assert place.source.renewals == ["r"]


async def test_a_token_that_the_container_renewed_is_live_for_the_agents_next_push(place):
    """Nothing of the agent is restarted, and its environment stays as it was."""
    place.server.make("r", FILES)
    place.server.tokens = {"old"}
    place.source.fresh = ["new"]
    async with place.life() as life:
        given(place, life, "old")
        path = Path((await worktree(place, life)).path)
        before = life.tools.access.agent_variables("r", "agent-1")
        place.server.tokens = {"new"}
        await worktree(place, life, branch="work/2")
        await place.git(path, "commit", "--allow-empty", "-m", "one")
        await place.git(path, "push", "origin", "HEAD", life=life)
        assert life.tools.access.agent_variables("r", "agent-1") == before


async def test_two_operations_that_are_refused_together_renew_once(place):
    place.server.make("r", FILES)
    async with place.life() as life:
        given(place, life, "old")
        rig = place.rig("r")
        await worktree(place, life)
        place.server.tokens = {"new"}
        place.source.fresh = ["new", "newer"]
        git = life.repositories.git(rig)
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(git.query, "ls-remote", "origin")
    assert place.source.renewals == ["r"]


class Asking:
    """The credential helper, run as git runs it."""

    def __init__(self, place: Place, life: Life) -> None:
        self.place, self.life = place, life

    async def __call__(self, rig: str, url: str, agent: str = "agent-1", **changes: str) -> str:
        variables = self.life.tools.access.agent_variables(rig, agent) | changes
        env = {"PATH": "/usr/bin:/bin", "HOME": str(self.place.folder), **variables}
        question = f"url={url}\n\n".encode()
        done = await trio.run_process(
            ["git", "credential", "fill"],
            stdin=question,
            env=env,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
        lines = dict(line.partition("=")[::2] for line in done.stdout.decode().splitlines())
        return f"{lines.get('username')}:{lines.get('password')}" if "password" in lines else "nothing"


async def test_an_agent_gets_the_login_of_its_own_rig_and_host_only(place):
    async with place.life() as life:
        ask = Asking(place, life)
        life.credentials.register_rig(
            "r1", Remote.parse("https://git.test/o/one.git"), given={"GIT_TOKEN": Secret("first")}
        )
        life.credentials.register_rig(
            "r2", Remote.parse("https://git2.test/o/two.git"), given={"GIT_TOKEN": Secret("second")}
        )
        assert await ask("r1", "https://git.test/o/one.git") == "x-access-token:first"
        assert await ask("r1", "https://git.test/o/sibling.git") == "x-access-token:first"
        for url in ("https://git2.test/o/two.git", "http://git.test/o/one.git", "https://git.test:8443/o/one.git"):
            assert await ask("r1", url) == "nothing"


async def test_a_key_that_is_made_up_opens_nothing(place):
    async with place.life() as life:
        ask = Asking(place, life)
        life.credentials.register_rig(
            "r1", Remote.parse("https://git.test/o/one.git"), given={"GIT_TOKEN": Secret("first")}
        )
        mine = life.tools.access.key("r2", "agent-1")
        for key in ("", "r1/agent-1/", mine.replace("r2", "r1"), "ø/ø/ø"):
            assert await ask("r1", "https://git.test/o/one.git", GASTOWN_GIT_KEY=key) == "nothing"


async def test_a_mayor_gets_the_login_of_the_rig_whose_address_it_is(place):
    async with place.life() as life:
        ask = Asking(place, life)
        life.credentials.register_rig(
            "r1", Remote.parse("https://git.test/o/one.git"), given={"GIT_TOKEN": Secret("first")}
        )
        life.credentials.register_rig(
            "r2", Remote.parse("https://git.test/o/two.git"), given={"GIT_TOKEN": Secret("second")}
        )
        assert await ask(ANY_RIG, "https://git.test/o/two") == "x-access-token:second"
        assert await ask(ANY_RIG, "https://git.test/o/three") == "nothing"
        assert not is_identifier(ANY_RIG)


async def test_an_agent_whose_rig_is_not_known_yet_gets_no_other_rig_s_login(place):
    """A triage agent needs no repository, so its start may be the first that is heard of its rig."""
    async with place.life() as life:
        life.credentials.register_rig(
            "r1", Remote.parse("https://git.test/o/one.git"), given={"GIT_TOKEN": Secret("first")}
        )
        assert await Asking(place, life)("r2", "https://git.test/o/one.git") == "nothing"


@pytest.mark.parametrize(
    ("url", "login"),
    [
        ("https://github.com/o/r.git", "x-access-token:of-github"),
        ("https://gitlab.com/o/r.git", "oauth2:of-gitlab"),
        ("https://gl.test:8443/o/r.git", "oauth2:of-gitlab"),
        ("http://github.com/o/r.git", "nothing"),
        ("https://github.com.evil.test/o/r.git", "nothing"),
        ("https://evil.test/o/r.git", "nothing"),
    ],
)
@pytest.mark.parametrize("rig", ["the agent's own rig", "any other repository"])
async def test_the_towns_tokens_go_to_the_hosts_that_they_are_for(place, url, login, rig):
    place.town = GitAuth(
        github_token="of-github", gitlab_token="of-gitlab", gitlab_instance_url="https://gl.test:8443/"
    )
    async with place.life() as life:
        own = rig == "the agent's own rig" and not url.startswith("http:")
        life.credentials.register_rig("r", Remote.parse(url if own else "https://mine.test/x.git"))
        asker = "r" if own else ANY_RIG
        assert await Asking(place, life)(asker, url) == login


async def test_a_git_token_that_is_githubs_is_not_sent_to_gitlab(place):
    async with place.life() as life:
        remote = Remote.parse("https://gitlab.com/o/r.git")
        life.credentials.register_rig(
            "r", remote, given={"GIT_TOKEN": Secret("hub"), "GITHUB_TOKEN": Secret("hub")}
        )
        assert await Asking(place, life)("r", "https://gitlab.com/o/r.git") == "nothing"
        life.credentials.register_rig(
            "r", remote, given={"GIT_TOKEN": Secret("lab"), "GITHUB_TOKEN": Secret("hub")}
        )
        assert await Asking(place, life)("r", "https://gitlab.com/o/r.git") == "oauth2:lab"


async def test_an_ssh_address_is_cloned_over_https_where_there_is_a_token(place):
    async with place.life() as life:
        life.credentials.register_rig("r", Remote.parse("git@git.test:o/r.git"))
        assert life.credentials.address("r") == "git@git.test:o/r.git"
        life.credentials.register_rig("r", Remote.parse("git@git.test:o/r.git"), given={"GIT_TOKEN": Secret("t")})
        assert life.credentials.address("r") == "https://git.test/o/r.git"
        assert await Asking(place, life)("r", "https://git.test/o/r.git") == "x-access-token:t"
        ssh = Remote.parse("ssh://git@git.test:2222/o/r.git")
        life.credentials.register_rig("s", ssh)
        assert life.credentials.address("s") == "ssh://git@git.test:2222/o/r.git"
        life.credentials.register_rig("s", ssh, given={"GIT_TOKEN": Secret("t")})
        assert life.credentials.address("s") == "https://git.test/o/r.git"


async def test_a_rig_that_moves_to_another_host_leaves_its_tokens_behind(place):
    async with place.life() as life:
        life.credentials.register_rig(
            "r", Remote.parse("https://git.test/o/r.git"), given={"GIT_TOKEN": Secret("t")}
        )
        life.credentials.register_rig("r", Remote.parse("https://elsewhere.test/o/r.git"))
        assert await Asking(place, life)("r", "https://elsewhere.test/o/r.git") == "nothing"


async def test_a_refused_token_gives_way_to_a_newer_one_and_is_better_than_none(place):
    async with place.life() as life:
        ask, remote = Asking(place, life), Remote.parse("https://git.test/o/r.git")
        life.credentials.register_rig("r", remote, given={"GIT_TOKEN": Secret("old")})
        assert await ask("r", remote.url) == "x-access-token:old"
        life.credentials.refuse(hashlib.sha256(b"old").hexdigest())
        assert await ask("r", remote.url) == "x-access-token:old"
        life.credentials.register_rig("r", remote, given={"GIT_TOKEN": Secret("newer")})
        assert await ask("r", remote.url) == "x-access-token:newer"


async def test_the_token_that_was_given_last_comes_first(place):
    """A start's token gives way to one that the town's configuration brought later, not to an older start's."""
    remote = Remote.parse("https://github.com/o/r.git")
    town = {"GITHUB_TOKEN": 1}
    credentials = GitCredentials(
        lambda: GitAuth(github_token="of-the-town"), place.source, town_since=lambda name: town[name]
    )

    async def first() -> str:
        login = await credentials.login("r", "agent-1", remote.origin, remote.path)
        return login.password.reveal()

    credentials.register_rig("r", remote, given={"GIT_TOKEN": Secret("of-a-start")}, since=5)
    assert await first() == "of-a-start"
    credentials.register_rig("r", remote, given={"GIT_TOKEN": Secret("of-an-older-start")}, since=4)
    assert await first() == "of-a-start"
    town["GITHUB_TOKEN"] = 5
    assert await first() == "of-a-start"
    town["GITHUB_TOKEN"] = 6
    assert await first() == "of-the-town"
    credentials.register_rig("r", remote, given={"GIT_TOKEN": Secret("of-a-later-start")}, since=7)
    assert await first() == "of-a-later-start"


async def test_helpers_of_other_programs_are_not_asked_and_learn_nothing(place):
    """A helper that stores would put the token on the disk."""
    place.server.make("r", FILES)
    place.server.tokens = {"t"}
    stored = place.folder / "stored"
    (place.folder / ".gitconfig").write_text(f"[credential]\n\thelper = store --file {stored}\n")
    async with place.life() as life:
        given(place, life, "t")
        path = Path((await worktree(place, life)).path)
        await place.git(path, "push", "origin", "HEAD", life=life)
    assert not stored.exists()


async def test_the_socket_is_for_this_user_only_and_gone_with_the_town(place):
    async with place.life() as life:
        socket = trio.Path(life.tools.access.socket)
        modes = [(await path.stat()).st_mode & 0o777 for path in (socket, socket.parent)]
        assert modes == [0o600, 0o700]
    assert not await socket.parent.exists()


async def test_without_a_control_server_git_goes_on_without_credentials(place):
    place.server.make("r", FILES)
    async with place.life() as life:
        path = Path((await worktree(place, life)).path)
    await place.git(path, "fetch", life=life)
    place.server.tokens = {"t"}
    said = await place.git(path, "fetch", life=life, check=False)
    assert "the control server does not answer" in said
    assert "terminal prompts disabled" in said


@pytest.mark.parametrize("question", [b"", b"not json\n", b"[1]\n", b'"x"\n', b"{}", b"x" * 100_000 + b"\n"])
async def test_a_question_that_makes_no_sense_gets_no_answer_and_does_no_harm(place, question):
    async with place.life() as life:
        async with await trio.open_unix_socket(life.tools.access.socket) as stream:
            try:
                await stream.send_all(question)
                await stream.send_eof()
                assert await stream.receive_some() in (b"", b"{}\n")
            except trio.BrokenResourceError:
                pass
        life.credentials.register_rig(
            "r", Remote.parse("https://git.test/o/r.git"), given={"GIT_TOKEN": Secret("t")}
        )
        assert await Asking(place, life)("r", "https://git.test/o/r.git") == "x-access-token:t"
