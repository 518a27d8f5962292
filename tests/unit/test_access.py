"""The tokens of the control port, and where it listens without one."""

from __future__ import annotations

from typing import Any

import pytest
import structlog

from gastown.contract.access import Scope, bearer_of
from gastown.contract.secret import Secret
from gastown.control.auth.policy import access_policy
from gastown.control.auth.tokens import Tokens
from gastown.control.server import CannotListen, listening_host
from gastown.testing.town import ToldSettings

CONTROL, ATTACH, READ = ("control-" * 4, "attach--" * 4, "read----" * 4)
TOKENS = Tokens({Scope.CONTROL: Secret(CONTROL), Scope.ATTACH: Secret(ATTACH), Scope.READ: Secret(READ)})


@pytest.mark.parametrize(
    ("token", "scope"), [(CONTROL, Scope.CONTROL), (ATTACH, Scope.ATTACH), (READ, Scope.READ)]
)
def test_a_token_has_its_scope(token: str, scope: Scope) -> None:
    assert TOKENS.scope_of(token) is scope


@pytest.mark.parametrize(
    "token", ["", CONTROL[:-1], CONTROL + " ", CONTROL.upper(), "\N{SNOWMAN}" * 9, "x" * 8192]
)
def test_anything_else_has_none(token: str) -> None:
    assert TOKENS.scope_of(token) is None


def test_without_a_token_nothing_is_one() -> None:
    assert not Tokens({})
    assert Tokens({}).scope_of("") is None


def test_a_token_is_nowhere_in_what_keeps_it() -> None:
    assert [secret for secret in (CONTROL, ATTACH, READ) if secret in repr(vars(TOKENS))] == []


BEARERS: list[tuple[list[bytes], str]] = [
    ([b"Bearer abc"], "abc"),
    ([b"bearer  abc "], "abc"),
    ([b"Basic abc"], ""),
    ([b"abc"], ""),
    ([b"Bearer"], ""),
    ([b"Bearer "], ""),
    ([b"Bearer abc", b"Bearer abc"], ""),
    ([], ""),
    ([b"Bearer \xe2\x98\x83"], "\xe2\x98\x83"),
]


@pytest.mark.parametrize(("values", "bearer"), BEARERS)
def test_a_bearer_is_read_from_one_header_of_its_scheme(values: list[bytes], bearer: str) -> None:
    assert bearer_of([(b"Authorization", value) for value in values]) == bearer


def told(**settings: Any) -> ToldSettings:
    return ToldSettings(base_env={"PATH": "/bin"}, **settings)


WHERE = [
    ({}, "127.0.0.1"),
    ({"gastown_control_host": "::"}, "::1"),
    ({"gastown_control_host": "localhost"}, "localhost"),
    ({"gastown_control_host": "127.0.0.2"}, "127.0.0.2"),
    ({"gastown_control_token": CONTROL}, "0.0.0.0"),
    ({"gastown_control_token": CONTROL, "gastown_control_host": "192.0.2.7"}, "192.0.2.7"),
    ({"gastown_insecure": True}, "0.0.0.0"),
    ({"gastown_insecure": True, "gastown_control_host": "192.0.2.7"}, "192.0.2.7"),
]


@pytest.mark.parametrize(("settings", "host"), WHERE)
def test_without_a_token_it_listens_on_loopback_unless_told_to_be_insecure(
    settings: dict[str, Any], host: str
) -> None:
    assert listening_host(told(**settings)) == host


def test_an_address_that_cannot_be_narrowed_is_refused_with_both_ways_out() -> None:
    with pytest.raises(CannotListen, match=r"192\.0\.2\.7 .*GASTOWN_CONTROL_TOKEN, or GASTOWN_INSECURE=1"):
        listening_host(told(gastown_control_host="192.0.2.7"))


LOUD = [
    ({}, "127.0.0.1", ["control.unlocked"]),
    ({"gastown_insecure": True}, "0.0.0.0", ["control.open_to_all"]),
    ({"gastown_control_token": CONTROL}, "0.0.0.0", []),
]


@pytest.mark.parametrize(("settings", "host", "events"), LOUD)
def test_a_control_port_without_a_token_is_warned_of(
    settings: dict[str, Any], host: str, events: list[str]
) -> None:
    with structlog.testing.capture_logs() as logged:
        access_policy(told(**settings), host).warn_if_open(host)
    assert [(line["event"], line["log_level"]) for line in logged] == [(event, "warning") for event in events]
    assert all("GASTOWN_CONTROL_TOKEN" in line["remedy"] and line["consequence"] for line in logged)
