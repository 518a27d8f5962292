"""Live credentials, and when a token ends."""

from __future__ import annotations

import base64
import json

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from gastown.contract.secret import Secret
from gastown.contract.town import TownConfig
from gastown.contract.worker import MayorContext
from gastown.testing.worker import token_until
from gastown.worker.tokens import Credentials, LiveCredentials, expiry


def test_a_token_ends_when_it_says() -> None:
    assert expiry(Secret(token_until(1_900_000_000))) == 1_900_000_000


def with_claims(claims: object) -> str:
    return f"h.{base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip('=')}.s"


@pytest.mark.parametrize(
    "token",
    [
        "",
        "opaque",
        "a.b",
        "a.!!!.c",
        "a..c",
        "é.é.é",
        with_claims({}),
        with_claims({"exp": None}),
        with_claims({"exp": "soon"}),
        with_claims({"exp": 10**400}),
        with_claims({"exp": float("inf")}),
        with_claims({"exp": float("nan")}),
        f"h.{base64.urlsafe_b64encode(b'[' * 100_000).decode()}.s",
        with_claims([1]),
        with_claims("exp"),
        with_claims(None),
    ],
)
def test_a_token_whose_end_cannot_be_read_has_none(token: str) -> None:
    assert expiry(Secret(token)) is None


def test_a_payload_of_any_length_can_be_read() -> None:
    assert [expiry(Secret(with_claims({"exp": 1, "pad": "x" * n}))) for n in range(4)] == [1, 1, 1, 1]


def test_every_replacement_is_a_new_generation_of_the_whole() -> None:
    live = LiveCredentials(Credentials(container_token=Secret("one"), session_token=Secret("s")))
    first = live.current
    live.replace_token(Secret("two"))
    live.replace_town(TownConfig(kilocode_token=Secret("k")))
    assert (first.container_token, first.generation) == (Secret("one"), 0)
    now = live.current
    assert (now.container_token, now.session_token, now.town.kilocode_token, now.generation) == (
        Secret("two"),
        Secret("s"),
        Secret("k"),
        2,
    )


@pytest.mark.virtual_time
async def test_who_waits_for_another_token_gets_it_and_is_not_woken_by_a_configuration() -> None:
    live = LiveCredentials(Credentials(container_token=(refused := Secret("one"))))
    woken = []
    with trio.fail_after(1):
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                await live.token_after(refused)
                woken.append(live.current.container_token)

            nursery.start_soon(wait)
            await wait_all_tasks_blocked()
            live.replace_town(TownConfig(kilocode_token=Secret("k")))
            await wait_all_tasks_blocked()
            assert woken == []
            live.replace_token(Secret("one"))
    assert woken == [Secret("one")]


@pytest.mark.virtual_time
async def test_a_token_that_came_before_the_wait_is_not_missed() -> None:
    live = LiveCredentials(Credentials())
    live.replace_token(Secret("one"))
    await live.token_after(None)
    assert trio.current_time() == 0


def test_a_new_town_config_replaces_all_of_the_old_one() -> None:
    live = LiveCredentials(Credentials())
    live.replace_town(TownConfig(kilocode_token=Secret("k"), organization_id="o", git_author_name="Ann"))
    live.replace_town(TownConfig(git_author_name="Bob"))
    assert live.current.town == TownConfig(git_author_name="Bob")


def test_the_mayor_context_becomes_the_town_config() -> None:
    live = LiveCredentials(Credentials(container_token=Secret("t")))
    live.adopt_context(
        MayorContext(
            kilocode_token=Secret("k"), github_token="gh", github_cli_pat=Secret("pat"), env_vars={"A": "1"}
        )
    )
    town = live.current.town
    assert (town.kilocode_token, town.git_auth.github_token, town.github_cli_pat, town.env_vars) == (
        Secret("k"),
        Secret("gh"),
        Secret("pat"),
        {"A": Secret("1")},
    )
    assert live.current.container_token == Secret("t")


@pytest.mark.parametrize(
    ("context", "said"), [({}, False), ({"organizationId": None}, True), ({"organizationId": "o"}, True)]
)
def test_the_context_says_something_about_the_organisation_only_if_the_worker_did(
    context: dict[str, object], *, said: bool
) -> None:
    live = LiveCredentials(Credentials())
    live.adopt_context(MayorContext.model_validate(context))
    town = live.current.town
    assert ("organization_id" in town.model_fields_set, town.organization_id) == (
        said,
        context.get("organizationId"),
    )


def test_every_credential_is_among_the_secrets() -> None:
    live = LiveCredentials(Credentials(container_token=Secret("s1"), session_token=Secret("s2")))
    live.adopt_context(
        MayorContext(
            kilocode_token=Secret("s3"), github_cli_pat=Secret("s4"), github_token="s5", gitlab_token="s6"
        )
    )
    assert {secret.reveal() for secret in live.current.secrets()} == {"s1", "s2", "s3", "s4", "s5", "s6"}


def test_what_a_header_said_outlives_the_mayor_context() -> None:
    """A start's header is newer and says more than the context; what only the context has is taken from it."""
    live = LiveCredentials(Credentials())
    live.replace_town(TownConfig(kilocode_token=Secret("from-header")))
    live.adopt_context(MayorContext(kilocode_token=Secret("from-context"), github_cli_pat=Secret("pat")))
    town = live.current.town
    assert (town.kilocode_token, town.github_cli_pat) == (Secret("from-header"), Secret("pat"))
