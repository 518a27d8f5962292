"""The container's token under an injected clock."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta

import jwt
import pytest

from gastown.contract.secret import Secret
from gastown.hall.tokens import REFRESH_WINDOW, InvalidToken, claimed_town, mint, verify

SECRET = Secret("s" * 48)
OTHER = Secret("o" * 48)
NOW = datetime(2030, 5, 1, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
CLAIMS = {"sub": "oak", "scope": "container", "iat": int(NOW.timestamp()), "exp": int((NOW + HOUR).timestamp())}


def signed(secret: Secret = SECRET, **changes: object) -> Secret:
    claims = {k: v for k, v in (CLAIMS | changes).items() if v is not None}
    return Secret(jwt.encode(claims, secret.reveal(), algorithm="HS256"))


def test_a_token_names_its_town_its_scope_and_eight_hours() -> None:
    claims = jwt.decode(mint(SECRET, "oak", NOW).reveal(), options={"verify_signature": False})
    claims.pop("jti")
    assert claims == {
        "sub": "oak",
        "scope": "container",
        "iat": NOW.timestamp(),
        "exp": (NOW + 8 * HOUR).timestamp(),
    }


def test_two_tokens_of_one_second_differ() -> None:
    assert mint(SECRET, "oak", NOW) != mint(SECRET, "oak", NOW)


@pytest.mark.parametrize("later", [timedelta(), 8 * HOUR - timedelta(seconds=1)])
def test_a_token_is_valid_until_it_expires(later: timedelta) -> None:
    assert verify(mint(SECRET, "oak", NOW), SECRET, NOW + later) == "oak"


def test_a_token_is_invalid_from_the_second_of_its_expiry() -> None:
    with pytest.raises(InvalidToken, match="expired"):
        verify(mint(SECRET, "oak", NOW), SECRET, NOW + 8 * HOUR)


def test_a_refresh_takes_a_token_that_expired_less_than_an_hour_ago() -> None:
    token = mint(SECRET, "oak", NOW)
    assert verify(token, SECRET, NOW + 9 * HOUR - timedelta(seconds=1), REFRESH_WINDOW) == "oak"
    with pytest.raises(InvalidToken, match="expired"):
        verify(token, SECRET, NOW + 9 * HOUR, REFRESH_WINDOW)


@pytest.mark.parametrize(
    "token",
    [
        signed(OTHER),
        signed(scope="agent"),
        signed(scope=None),
        signed(exp=None),
        signed(iat=None),
        signed(exp="tomorrow"),
        signed(sub=None),
        signed(iat=int((NOW + HOUR).timestamp())),
        Secret(jwt.encode(CLAIMS, "", algorithm="none")),
        Secret(""),
        Secret("x.y.z"),
        Secret("eyJhbGciOiJIUzI1NiJ9.bm90IGpzb24.AAAA"),
        Secret("\udcff.ü.\x00"),
    ],
    ids=[
        "signed by another",
        "another scope",
        "no scope",
        "no expiry",
        "no issue time",
        "an expiry that is no number",
        "no town",
        "from the future",
        "unsigned",
        "empty",
        "no JWT",
        "no JSON inside",
        "no ASCII",
    ],
)
def test_what_is_not_a_token_of_ours_is_refused(token: Secret) -> None:
    with pytest.raises(InvalidToken):
        verify(token, SECRET, NOW)


def test_the_claimed_town_is_read_without_a_secret() -> None:
    assert claimed_town(signed(OTHER)) == "oak"


@pytest.mark.parametrize(
    "payload", ["[1]", '{"sub": 1}', "{}", "[" * 100_000, r'{"sub": "\ud800"}', '{"sub": "../x"}']
)
def test_a_claim_that_is_no_town_is_refused(payload: str) -> None:
    body = base64.urlsafe_b64encode(payload.encode()).rstrip(b"=").decode()
    with pytest.raises(InvalidToken):
        claimed_town(Secret(f"eyJhbGciOiJIUzI1NiJ9.{body}.AAAA"))


def test_a_refusal_never_quotes_the_token() -> None:
    token = signed(OTHER)
    with pytest.raises(InvalidToken) as caught:
        verify(token, SECRET, NOW)
    assert token.reveal() not in str(caught.value)
    assert json.dumps(CLAIMS["sub"]) not in str(caught.value)
