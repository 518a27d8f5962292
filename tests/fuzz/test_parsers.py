"""Every parser of ours against everything: it reads, or it refuses in its own words; it never falls over."""

from __future__ import annotations

import base64
import json
import math
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import PurePosixPath

import jwt
from hypothesis import example, given
from hypothesis import strategies as st

from gastown.broker.grants import AgentIdentity, Grants
from gastown.broker.headers import for_agent, for_upstream
from gastown.broker.policy import Refused, route
from gastown.contract.access import bearer_of
from gastown.contract.git import Remote, is_branch_name, is_revision
from gastown.contract.identifiers import is_identifier, printable
from gastown.contract.secret import Secret
from gastown.git.workspace import WorkspacePaths
from gastown.hall.tokens import InvalidToken, claimed_town, verify
from gastown.kilo.frames import FrameReader, FrameTooLarge
from gastown.worker.tokens import expiry
from tests.fuzz.budget import examples

SECRET = Secret("s" * 48)
NOW = datetime(2030, 5, 1, 12, 0, tzinfo=UTC)
POLE = AgentIdentity("pole-1", "r1", "oak", "polecat")
MAYOR = AgentIdentity("mayor-1", "mayor-oak", "oak", "mayor")

JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.integers(min_value=10**300, max_value=10**400),
        st.floats(),
        st.text(),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=4)),
    max_leaves=10,
)


# Server-sent events.

LINE = st.one_of(
    st.binary(max_size=12).map(lambda raw: raw.replace(b"\n", b"").replace(b"\r", b"")),
    st.sampled_from(
        [b"data: {}", b"data:x", b"data", b"data: ", b": comment", b"id: 7", b"event: x", b"dat", b"data:  "]
    ),
)
END = st.sampled_from([b"\n", b"\r\n"])


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[bytes], list[bytes]]:
    """A stream in pieces cut anywhere, and the data that it carries."""
    wire, carried = b"", []
    for _ in range(draw(st.integers(0, 6))):
        lines = draw(st.lists(LINE.filter(bool), min_size=1, max_size=4))
        end = draw(END)
        wire += b"".join(line + end for line in lines) + end
        said = [line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:")]
        if any(said) or len(said) > 1:
            carried.append(b"\n".join(said))
    cuts = sorted(draw(st.lists(st.integers(0, len(wire)), max_size=8)))
    return [wire[a:b] for a, b in zip([0, *cuts], [*cuts, len(wire)], strict=True)], carried


@examples(200)
@given(streams())
def test_a_stream_of_frames_gives_what_it_carries_wherever_it_is_cut(stream) -> None:
    pieces, carried = stream
    reader = FrameReader(10_000)
    assert [data for piece in pieces for data in reader.feed(piece)] == carried


@examples(200)
@given(
    st.lists(st.one_of(st.binary(max_size=200), st.sampled_from([b"\n", b"\r", b"\n\n", b"data: "])), max_size=30)
)
def test_bytes_that_are_no_stream_are_read_or_given_up(pieces) -> None:
    reader = FrameReader(300)
    with suppress(FrameTooLarge):
        for piece in pieces:
            for data in reader.feed(piece):
                assert b"\n\n" not in data


# Tokens.


def token_of(claims: object, *, header: object = None) -> str:
    parts = [json.dumps(part).encode() for part in (header or {"alg": "HS256", "typ": "JWT"}, claims)]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts) + ".c2ln"


def jwts() -> st.SearchStrategy[str]:
    times = st.one_of(JSON, st.integers(), st.floats())
    claims = st.fixed_dictionaries({}, optional={"exp": times, "iat": times, "sub": JSON, "scope": JSON})
    made = st.builds(lambda claims, header: token_of(claims, header=header), st.one_of(claims, JSON), JSON)
    raw = st.binary(max_size=60).map(lambda b: f"e30.{base64.urlsafe_b64encode(b).decode().rstrip('=')}.x")
    return st.one_of(made, raw, st.text(max_size=60), st.text(alphabet="aAeE09-_.=+/ \x00é", max_size=60))


@examples(300)
@given(jwts())
@example(token_of({"exp": 10**400}))
@example(token_of({"exp": math.inf}))
@example(token_of({"exp": math.nan}))
@example("h." + base64.urlsafe_b64encode(b"[" * 100_000).decode() + ".s")
def test_the_end_of_any_token_is_a_moment_or_not_known(token) -> None:
    found = expiry(Secret(token))
    assert found is None or math.isfinite(found)


@examples(300)
@given(jwts())
def test_no_token_of_another_is_taken_for_one_of_the_halls(token) -> None:
    with suppress(InvalidToken):
        claimed_town(Secret(token))
    try:
        verify(Secret(token), SECRET, NOW)
    except InvalidToken:
        return
    raise AssertionError(token)


@examples(200)
@given(st.fixed_dictionaries({}, optional={"exp": JSON, "iat": JSON, "sub": JSON, "scope": st.just("container")}))
def test_signed_claims_of_any_kind_are_read_or_refused(claims) -> None:
    encoded = jwt.api_jws.encode(json.dumps(claims).encode(), SECRET.reveal(), algorithm="HS256")
    with suppress(InvalidToken):
        assert verify(Secret(encoded), SECRET, NOW) == claims["sub"]


# The broker's headers and paths.

NAMES = st.one_of(
    st.sampled_from([b"authorization", b"Authorization", b"connection", b"cookie", b"x-gastown-agent-id", b"te"]),
    st.binary(max_size=12),
)
VALUES = st.one_of(
    st.sampled_from([b"Bearer x", b"bearer  x ", b"Basic x", b"Bearer", b"close, authorization", b"gtb.1.2"]),
    st.binary(max_size=30),
)
HEADERS = st.lists(st.tuples(NAMES, VALUES), max_size=8)


@examples(300)
@given(HEADERS)
def test_any_headers_have_a_bearer_or_none_and_a_stranger_finds_no_grant(headers) -> None:
    grants = Grants()
    grant = grants.admit(POLE, None)
    assert grants.find(bearer_of(headers)) is None
    assert grants.find(bearer_of([(b"authorization", b"Bearer " + grant.bearer.reveal().encode())])) is grant


@examples(200)
@given(st.text(max_size=80))
def test_no_text_is_a_bearer(text) -> None:
    grants = Grants()
    grant = grants.admit(POLE, None)
    for tried in (text, f"gtb.{grant.name}.{text}", f"{grant.bearer.reveal()}{text}" if text else "gtb"):
        assert grants.find(tried) is None


@examples(300)
@given(HEADERS)
def test_what_goes_upstream_never_carries_the_agents_bearer_nor_says_who_it_is(headers) -> None:
    sent = [*headers, (b"X-Copy", b"is gtb.n.secret here"), (b"X-Gastown-Agent-Id", b"other")]
    names = [name for name, _ in for_upstream(sent, "gtb.n.secret", {"authorization": "Bearer live"})]
    values = dict(for_upstream(sent, "gtb.n.secret", {"authorization": "Bearer live"}))
    assert names.count(b"authorization") == 1
    assert values[b"authorization"] == b"Bearer live"
    assert not any(b"gtb.n.secret" in value for value in values.values())
    assert not any(name.startswith(b"x-gastown-") for name in names)
    assert all(name == name.lower() for name in names)
    assert b"set-cookie" not in dict(for_agent([*headers, (b"Set-Cookie", b"town")]))


PATHS = st.one_of(
    st.binary(max_size=80),
    st.lists(
        st.sampled_from(
            [
                *b"api towns oak rigs r1 agents pole-1 pole-2 prime mayor tools broker environment".split(),
                *(b"..", b".", b"", b"%2e%2e", b"%2f", b"%00", b"%zz", b"a" * 200),
            ]
        ),
        max_size=10,
    ).map(b"/".join),
)


@examples(300)
@given(
    st.sampled_from([POLE, MAYOR]),
    st.sampled_from(["GET", "POST", "DELETE", "PATCH", "X"]),
    PATHS,
    st.binary(max_size=40),
)
def test_a_path_is_one_of_the_agents_own_or_refused(identity, method, path, query) -> None:
    with suppress(Refused):
        found = route(identity, method, b"/" + path, query).path
        segments = found[1:].split("/")
        assert all(is_identifier(segment) for segment in segments)
        assert "pole-2" not in segments or identity is MAYOR or "agents" not in segments


# Names, branches, addresses.

AWKWARD = st.one_of(
    st.text(max_size=40),
    st.text(alphabet="ab.-/@{}~^:?*[\\ \x00\x01\x7f\nHEADlockü\ud800%", max_size=20),
    st.text(alphabet=st.characters(categories=["Cs", "Cc", "Cf", "Zl", "Zs"]), max_size=10),
)


@examples(300)
@given(AWKWARD)
def test_a_name_that_is_taken_is_one_folder_below_its_root(name) -> None:
    paths = WorkspacePaths("/top")
    if is_identifier(name):
        assert PurePosixPath(paths.rig(name)).parent == PurePosixPath("/top")
        assert PurePosixPath(paths.rig(name)).name == name
        assert name.isascii()
    if is_branch_name(name):
        assert is_revision(name)
        folder = PurePosixPath(paths.worktree("rig", name))
        assert folder.parent == PurePosixPath("/top/rig/worktrees")
        assert folder.name not in ("..", ".", "")
    shown = printable(name)
    assert len(shown) <= 81
    assert shown.encode().decode() == shown


URLS = st.one_of(
    AWKWARD,
    st.builds(
        "{}{}{}{}{}".format,
        st.sampled_from(["https://", "http://", "git@", "HTTPS://", "ssh://", "file://", ""]),
        st.one_of(st.just(""), st.text(alphabet="ab:@%é\x00-", max_size=8).map(lambda login: f"{login}@")),
        st.sampled_from(["h.test", "[::1]", "H:80", "h:0443", "h:99999", "h:", "-h", "[", "ü.test", "h:٣"]),
        st.sampled_from(["/", ":", ""]),
        st.one_of(AWKWARD, st.sampled_from(["o/r.git", "../x", "%2e%2e/x", "-x", "o/r?x", "o/r#x"])),
    ),
)


@examples(500)
@given(URLS)
def test_an_address_is_read_or_refused_and_what_was_read_is_read_the_same_again(text) -> None:
    try:
        remote = Remote.parse(text)
    except ValueError as refusal:
        assert len(text) < 8 or text not in str(refusal)  # noqa: PT017 - a refusal is as good as an address
        return
    assert not remote.url.startswith("-")
    assert remote.url.isprintable()
    assert "password" not in repr(remote)
    again = Remote.parse(remote.url)
    assert (again.url, again.origin, again.path) == (remote.url, remote.origin, remote.path)
    assert (again.username, again.password) == (None, None)
