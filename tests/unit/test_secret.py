"""A secret gives its text to who calls `reveal`, and to nobody and nothing else."""

from __future__ import annotations

import ast
import copy
import json
import pickle
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter

from gastown.contract.agents import StartAgentRequest
from gastown.contract.secret import (
    BearerToken,
    Secret,
    SecretMap,
    credentials_among,
    reveal_json,
    reveal_map,
)
from gastown.contract.town import GitAuth, RefreshTokenRequest, TownConfig
from gastown.contract.wire import Wire
from gastown.contract.worker import MayorContext, RegistryEntry
from gastown.testing.town import start_request

HOUSE = Path(__file__).parents[2] / "src" / "gastown"
TEXT = "hush-7f3a9c51"
SECRET = Secret(TEXT)

REVEALS = {
    "agents/launch/desired.py": "a variable with a NUL cannot be one",
    "agents/launch/environment.py": "a child's environment, which is where the plain text has to leave",
    "broker/forward.py": "the header upstream, and what an agent may have: its own bearer, its shell's variables",
    "contract/agents.py": "a variable with a NUL cannot be one",
    "control/auth/tokens.py": "the digest with which a bearer is compared",
    "git/credentials.py": "a refused password's digest, the host in an instance's address, a line break",
    "git/helper_service.py": "the answer to git's credential helper",
    "hall/api/answers.py": "the orchestrator gives the container its own",
    "hall/cli/bringup.py": "the control port's token: a file for its owner only, and the container's environment",
    "hall/domain/town.py": "the address of a folder, which the container and its git log in with",
    "hall/hall.py": "the user API's token: a file for its owner only",
    "hall/user_api/routes.py": "the bearer with which a person's is compared",
    "hall/drivers/process.py": "the environment of the container that `up` runs",
    "hall/control_client.py": "the orchestrator gives the town its credentials",
    "hall/store/database.py": "the hall's database",
    "hall/tokens.py": "signing",
    "hall/cli/up.py": "the file container.env, for its owner only",
    "hall/cli/commands/at_rest.py": "the bearer with which a command asks the hall that it has opened itself",
    "kilo/client.py": "the header with a server's password",
    "kilo/server.py": "the environment of a server, which has its password there",
    "kilo/terminal.py": "the environment of `kilo attach`",
    "logs.py": "what is to be taken out of a line",
    "settings.py": "what a token of the control port may consist of",
    "worker/client.py": "the header of a call, and the registry, which is the orchestrator's",
    "worker/git_tokens.py": "the header of a call to the platform",
    "testing/launchers.py": "the password that a fake server asks for",
    "worker/tokens.py": "the expiry inside a JWT",
}
"""Every module that takes the text out of a secret, and what for. A new one is a decision: say here why."""


def revealing(source: str) -> Iterator[str]:
    """The names through which `source` comes to the text of a secret."""
    for node in ast.walk(ast.parse(source)):
        name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
        if name.startswith("reveal") or name in ("_Secret__text", "get_secret_value"):
            yield name


class Holder(BaseModel):
    secret: Secret
    several: SecretMap = pydantic.Field(default_factory=dict)
    deep: list[GitAuth] = []


@dataclass(frozen=True)
class Frozen:
    secret: Secret


def model() -> Holder:
    return Holder(secret=SECRET, several={"A": SECRET}, deep=[GitAuth(github_token=SECRET)])


REFUSED: dict[str, Callable[[], object]] = {
    "str": lambda: str(SECRET),
    "an f-string": lambda: f"Bearer {SECRET}",
    "an f-string with its repr's width": lambda: f"{SECRET:>20}",
    "percent": lambda: "%s" % SECRET,  # noqa: UP031
    "format": lambda: "{}".format(SECRET),  # noqa: UP032
    "join": lambda: "".join([SECRET]),  # type: ignore[list-item]  # noqa: FLY002
    "adding": lambda: "Bearer " + SECRET,  # type: ignore[operator]
    "bytes": lambda: bytes(SECRET),  # type: ignore[call-overload]
    "a list of its letters": lambda: list(SECRET),  # type: ignore[call-overload]
    "its length": lambda: len(SECRET),  # type: ignore[arg-type]
    "vars": lambda: vars(SECRET),
    "pickle": lambda: pickle.dumps(SECRET),
    "pickle of a model": lambda: pickle.dumps(model()),
    "json": lambda: json.dumps(SECRET),
    "json by str": lambda: json.dumps([SECRET], default=str),
    "model_dump_json": lambda: model().model_dump_json(),
    "model_dump as JSON": lambda: model().model_dump(mode="json"),
    "a context of somebody else": lambda: model().model_dump(mode="json", context=object()),
    "a type adapter": lambda: TypeAdapter(Secret).dump_json(SECRET),
    "a hash": lambda: hash(SECRET),
    "a set": lambda: {SECRET},
    "a plain text on the other side": lambda: SECRET == TEXT,
    "a plain text first": lambda: TEXT != SECRET,
    "one in a list": lambda: TEXT in [None, SECRET],
}


@pytest.mark.parametrize("way", REFUSED)
def test_every_way_out_but_one_is_refused_and_the_refusal_does_not_tell(way: str) -> None:
    with pytest.raises((TypeError, pydantic.ValidationError, ValueError)) as caught:
        REFUSED[way]()
    assert TEXT not in f"{caught.value!r} {caught.value}"


@pytest.mark.parametrize(
    "value",
    [SECRET, [SECRET], {"a": SECRET}, Frozen(SECRET), model(), asdict(Frozen(SECRET)), model().model_dump()],
    ids=["itself", "list", "dict", "dataclass", "model", "as a dict", "dumped model"],
)
def test_a_repr_shows_a_mask_of_one_length(value: object) -> None:
    assert "Secret(***)" in repr(value)
    assert TEXT not in repr(value)


def test_the_text_comes_out_by_its_one_name() -> None:
    assert SECRET.reveal() == TEXT


def test_a_copy_is_the_secret_itself() -> None:
    assert copy.deepcopy([SECRET])[0] is SECRET
    assert copy.copy(SECRET) is SECRET
    assert model().model_copy(deep=True) == model()


def test_among_python_values_a_secret_stays_one() -> None:
    assert model().model_dump()["several"] == {"A": SECRET}
    assert Holder.model_validate(model().model_dump()) == model()


def test_a_peer_that_holds_them_by_right_gets_the_texts() -> None:
    assert reveal_json(model(), exclude_none=True) == {
        "secret": TEXT,
        "several": {"A": TEXT},
        "deep": [{"github_token": TEXT}],
    }
    assert reveal_map({"A": SECRET}) == {"A": TEXT}


@given(st.text(), st.text())
def test_secrets_are_equal_when_their_texts_are(one: str, other: str) -> None:
    assert (Secret(one) == Secret(other)) is (one == other)
    assert Secret(one) == Secret(one)
    assert bool(Secret(one)) is bool(one)


def test_a_comparison_takes_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the one function that is made for it, with all of both."""
    seen = []
    monkeypatch.setattr("hmac.compare_digest", lambda a, b: seen.append((a, b)) or a == b)
    assert Secret("hush-a") != Secret("hush-b")
    assert seen == [(b"hush-a", b"hush-b")]


def test_a_secret_is_nothing_else() -> None:
    assert (SECRET == None, SECRET == 5, SECRET in [None, 5]) == (False, False, False)  # noqa: E711


def test_what_cannot_be_one_is_refused_without_a_quotation() -> None:
    class Strict(Wire):
        token: BearerToken

    for wrong in ([TEXT], f"{TEXT} and more", f"{TEXT}\n", "", 7, None):
        with pytest.raises(pydantic.ValidationError) as caught:
            Strict.model_validate({"token": wrong})
        assert TEXT not in str(caught.value)
        with pytest.raises(pydantic.ValidationError):
            Strict.model_validate_json(json.dumps({"token": wrong}))
    with pytest.raises(pydantic.ValidationError):
        Strict(token=Secret("two words"))


def test_variables_that_are_null_are_left_out() -> None:
    assert TypeAdapter(SecretMap).validate_python({"A": TEXT, "B": None}) == {"A": SECRET}


@pytest.mark.parametrize(
    "given",
    [
        StartAgentRequest.model_validate(
            start_request(
                "pole-1",
                envVars={"GIT_TOKEN": TEXT, "ANY": TEXT},
                gitUrl=f"https://u:{TEXT}@git.test/r.git",
                completionCallbackUrl=f"https://x.test/?key={TEXT}",
                rigs=[{"rigId": "r", "gitUrl": f"https://u:{TEXT}@git.test/r.git", "defaultBranch": "main"}],
            )
        ),
        TownConfig.model_validate(
            {
                "kilocode_token": TEXT,
                "github_cli_pat": TEXT,
                "git_auth": {
                    "github_token": TEXT,
                    "gitlab_token": TEXT,
                    "gitlab_instance_url": f"https://u:{TEXT}@gl.test",
                },
                "env_vars": {"ANY": TEXT},
            }
        ),
        MayorContext.model_validate({"kilocodeToken": TEXT, "githubToken": TEXT, "envVars": {"A": TEXT}}),
        RegistryEntry.model_validate(
            {"agentId": "pole-1", "request": start_request("pole-1"), "workdir": "/w", "env": {"A": TEXT}}
        ),
        RefreshTokenRequest.model_validate({"token": TEXT}),
    ],
    ids=lambda given: type(given).__name__,
)
def test_no_message_with_credentials_shows_or_writes_one(given: BaseModel) -> None:
    assert TEXT not in repr(given)
    with pytest.raises(ValueError, match="not written as JSON"):
        given.model_dump_json()
    assert type(given).model_validate(reveal_json(given, by_alias=True)) == given


def test_an_api_description_calls_a_secret_a_password() -> None:
    described = RefreshTokenRequest.model_json_schema()["properties"]["token"]
    assert (described["type"], described["format"], described["writeOnly"]) == ("string", "password", True)


@pytest.mark.parametrize(
    "source",
    ["token.reveal()", "reveal_json(model)", "out = reveal_map", "s._Secret__text", "setting.get_secret_value()"],
)
def test_no_way_to_the_text_is_overlooked(source: str) -> None:
    assert list(revealing(source)) != []


def test_the_text_is_taken_out_only_where_it_is_used() -> None:
    """See REVEALS. A row that is no longer needed goes."""
    found = {
        path.relative_to(HOUSE).as_posix()
        for path in HOUSE.rglob("*.py")
        if any(revealing(path.read_text("utf-8")))
    } - {"contract/secret.py"}
    assert found == REVEALS.keys()


def test_the_pydantic_type_that_is_almost_the_same_is_not_used() -> None:
    """`SecretStr` writes stars where the value belongs, pickles it, and compares in variable time."""
    users: list[Any] = [path for path in HOUSE.rglob("*.py") if "import SecretStr" in path.read_text("utf-8")]
    assert users == []


@pytest.mark.parametrize(
    "name",
    ["KEY", "OPENAI_KEY", "API_KEYS", "OPENAI_APIKEY", "deployKey", "KEY_1", "AUTH", "NPM_AUTH", "AUTHORIZATION",
     "OAUTH_X", "basicAuth", "GITHUB_PAT", "PASSCODE", "myToken"],
)  # fmt: skip
def test_a_name_of_a_credential_makes_one_of_any_value(name: str) -> None:
    assert list(credentials_among({name: Secret("weak")})) == [Secret("weak")]


@pytest.mark.parametrize(
    "name",
    ["AUTHOR", "GIT_AUTHOR_NAME", "git_author_email", "COAUTHORS", "MONKEY", "KEYBOARD", "PATH"],
)
def test_a_name_that_only_resembles_one_does_not(name: str) -> None:
    assert list(credentials_among({name: Secret("polecat")})) == []
