"""Which web pages a server takes requests from, and under which names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gastown.asgi.origins import Callers, is_loopback

LOCAL = Callers(loopback_only=True, listed=frozenset({"https://desk.example"}))
LOCKED = Callers(loopback_only=False, named_origins=True, listed=frozenset({"https://desk.example"}))
OPEN = Callers(loopback_only=False, listed=frozenset({"https://desk.example"}))


def headers(host: str | None, *origins: str) -> list[tuple[bytes, bytes]]:
    hosts = [] if host is None else [(b"host", host.encode("latin-1"))]
    return [(b"accept", b"*/*"), *hosts, *((b"origin", origin.encode("latin-1")) for origin in origins)]


@pytest.mark.parametrize(
    "host", ["localhost", "LocalHost:8080", "127.0.0.1:8080", "127.8.9.1", "[::1]:8080", "[::1]"]
)
@pytest.mark.parametrize("callers", [LOCAL, LOCKED, OPEN])
def test_a_program_that_calls_loopback_is_let_through(callers: Callers, host: str) -> None:
    assert callers.refusal(headers(host)) is None


NAMES_OF_OTHERS = [
    "evil.example:8080",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "192.0.2.7:8080",
    "0.0.0.0:8080",
    "[::]:8080",
    "2130706433",
    "localhost:8080:8080",
    "evil@localhost",
    "localhost/evil",
    "",
    "[::1",
    "a\x00b",
]


@pytest.mark.parametrize("host", [*NAMES_OF_OTHERS, None])
def test_on_loopback_nobody_gets_in_under_another_name(host: str | None) -> None:
    assert LOCAL.refusal(headers(host)) is not None


@pytest.mark.parametrize("host", ["evil.example:8080", "192.0.2.7:8080"])
def test_beyond_loopback_and_behind_tokens_every_name_is_good(host: str) -> None:
    assert (LOCKED.refusal(headers(host)), OPEN.refusal(headers(host))) == (None, None)


def test_two_hosts_are_none() -> None:
    assert LOCAL.refusal([*headers("localhost"), *headers("localhost")]) is not None
    assert LOCKED.refusal([*headers("oak.example", "http://oak.example"), *headers("oak.example")]) is not None


OWN = [
    ("localhost:8080", "http://localhost:8080"),
    ("127.0.0.1", "http://127.0.0.1"),
    ("127.0.0.1:80", "http://127.0.0.1"),
    ("[::1]:8080", "http://[::1]:8080"),
    ("localhost", "https://localhost"),
    ("LOCALHOST:8080", "http://localhost:8080"),
]


@pytest.mark.parametrize(("host", "origin"), OWN)
@pytest.mark.parametrize("callers", [LOCAL, LOCKED, OPEN])
def test_a_page_of_the_servers_own_may_call(callers: Callers, host: str, origin: str) -> None:
    assert callers.refusal(headers(host, origin)) is None


FOREIGN = [
    ("localhost:8080", "http://localhost:3000"),
    ("localhost:8080", "http://127.0.0.1:8080"),
    ("localhost:8080", "https://evil.example"),
    ("localhost:8080", "null"),
    ("localhost:8080", ""),
    ("localhost:8080", "http://localhost:8080.evil.example"),
    ("localhost:8080", "http://evil.example@localhost:8080"),
    ("localhost:8080", "http://localhost:8080/path"),
    ("localhost:8080", "file://localhost:8080"),
    ("localhost:8080", "http://localhost:8080, http://localhost:8080"),
    ("localhost", "http://localhost:443"),
    ("localhost:8080", "https://desk.example.evil.example"),
    ("localhost:8080", "http://desk.example"),
]


@pytest.mark.parametrize(("host", "origin"), FOREIGN)
@pytest.mark.parametrize("callers", [LOCAL, LOCKED, OPEN])
def test_a_page_of_anybody_else_may_not(callers: Callers, host: str, origin: str) -> None:
    assert callers.refusal(headers(host, origin)) is not None


def test_of_two_origins_each_must_be_good() -> None:
    assert LOCAL.refusal(headers("localhost", "http://localhost", "https://evil.example")) is not None


def test_a_page_whose_name_resolves_to_us_is_our_own_only_behind_tokens() -> None:
    rebound = headers("evil.example:8080", "http://evil.example:8080")
    assert LOCKED.refusal(rebound) is None
    assert LOCAL.refusal(rebound) is not None
    assert OPEN.refusal(rebound) is not None


@pytest.mark.parametrize("callers", [LOCAL, LOCKED, OPEN])
@pytest.mark.parametrize("origin", ["https://desk.example", "HTTPS://Desk.example"])
def test_a_listed_page_may_call_from_anywhere(callers: Callers, origin: str) -> None:
    assert callers.refusal(headers("localhost:8080", origin)) is None
    assert callers.listed_origin(headers("localhost:8080", origin)) == origin


def test_only_a_listed_page_is_told_apart() -> None:
    assert LOCAL.listed_origin(headers("localhost", "http://localhost")) is None
    assert LOCAL.listed_origin(headers("localhost", "https://desk.example", "https://desk.example")) is None


def test_the_sentence_says_who_was_refused_and_what_to_do() -> None:
    callers = Callers(loopback_only=True, hint="; ask the owner")
    assert callers.refusal(headers("localhost", "https://evil.example\x07")) == (
        "Web pages of https://evil.example\N{REPLACEMENT CHARACTER} may not call this server; ask the owner"
    )
    assert callers.refusal(headers("x" * 500)) == f"This server answers to loopback only, not to {'x' * 80}…"


@given(host=st.binary(max_size=60), origin=st.binary(max_size=60))
def test_no_header_makes_it_fail_and_no_stranger_is_let_in(host: bytes, origin: bytes) -> None:
    callers = Callers(loopback_only=True)
    reason = callers.refusal([(b"host", host), (b"origin", origin)])
    good = host.lower().startswith((b"localhost", b"127.", b"[")) and b"://" in origin
    assert reason is not None or good


@pytest.mark.parametrize(
    ("host", "expected"),
    [("localhost", True), ("127.0.0.1", True), ("::1", True), ("0.0.0.0", False), ("::", False), ("oak", False)],
)
def test_which_hosts_are_loopback(host: str, *, expected: bool) -> None:
    assert is_loopback(host) is expected
