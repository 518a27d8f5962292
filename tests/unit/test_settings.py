"""The settings: every variable, its default, and what is said about a value that cannot be used."""

from __future__ import annotations

import os
from typing import Any

import pytest

from gastown.contract.tools import mayor_tools
from gastown.settings import BadSettings, Settings, load

DEFAULTS: dict[str, Any] = {
    "GASTOWN_API_URL": None,
    "GASTOWN_TOWN_ID": None,
    "GASTOWN_CONTAINER_TOKEN": None,
    "GASTOWN_SESSION_TOKEN": None,
    "GASTOWN_ORGANIZATION_ID": None,
    "KILO_API_URL": None,
    "KILO_OPENROUTER_BASE": None,
    "KILO_CLOUD_URL": None,
    "KILOCODE_TOKEN": None,
    "AGENT_IDLE_TIMEOUT_MS": 120_000,
    "REFINERY_IDLE_TIMEOUT_MS": 600_000,
    "GASTOWN_CONTROL_TOKEN": None,
    "GASTOWN_ATTACH_TOKEN": None,
    "GASTOWN_READ_TOKEN": None,
    "GASTOWN_INSECURE": False,
    "GASTOWN_CONTROL_ORIGINS": (),
    "GASTOWN_CONTROL_HOST": "0.0.0.0",
    "GASTOWN_CONTROL_PORT": 8080,
    "GASTOWN_WORKSPACE_ROOT": "/workspace/rigs",
    "GASTOWN_AGENT_HOME_ROOT": "/tmp",
    "GASTOWN_KILO_BIN": None,
    "GASTOWN_SPAWN_SLOTS": len(os.sched_getaffinity(0)),
    "GASTOWN_SPAWN_SECONDS": 30,
    "GASTOWN_START_SECONDS": 60,
    "GASTOWN_REFRESH_SECONDS": 6,
    "GASTOWN_GATE_SECONDS": 20,
    "GASTOWN_GATEWAY_URL": None,
    "GASTOWN_FIRST_WORD_SECONDS": 1,
    "GASTOWN_OUTBOX_EVENTS": 50_000,
    "GASTOWN_OUTBOX_MB": 64,
    "GASTOWN_STALLED_SECONDS": 300,
    "GASTOWN_SERVER_RSS_MB": 0,
    "GASTOWN_CLONE_SECONDS": 900,
    "GASTOWN_GIT_SECONDS": 120,
    "GASTOWN_KEEP_ENDED_HOURS": 72,
    "GASTOWN_KEEP_ENDED_AGENTS": 20,
    "GASTOWN_KEEP_ENDED_MB": 10_240,
    "GASTOWN_DRAIN_SECONDS": 300,
    "GASTOWN_SNAPSHOT_MB": 64,
    "GASTOWN_MAYOR_TOOLS": mayor_tools(),
    "GASTOWN_REQUIRE_TICKETS": False,
    "GASTOWN_AGENT_USER": None,
    "GASTOWN_AGENT_UIDS": None,
    "GASTOWN_PARENT_PID": None,
}


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name in DEFAULTS or name.startswith(("GASTOWN_", "KILO", "LC_", "LANG")):
            monkeypatch.delenv(name)


def loaded(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Settings:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return load()


def value(settings: Settings, variable: str) -> Any:
    return getattr(settings, variable.lower())


@pytest.mark.parametrize("variable", DEFAULTS)
def test_a_variable_that_is_not_set_has_its_default(variable: str) -> None:
    assert value(load(), variable) == DEFAULTS[variable]


def test_no_variable_is_missing_from_these_tests() -> None:
    assert {name.upper() for name in Settings.model_fields} == DEFAULTS.keys()


def test_every_variable_says_what_it_means() -> None:
    assert [
        name for name, field in Settings.model_fields.items() if not (field.description or "").endswith(".")
    ] == []


@pytest.mark.parametrize("variable", DEFAULTS)
def test_an_empty_variable_is_as_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    assert value(loaded(monkeypatch, **{variable: ""}), variable) == DEFAULTS[variable]


@pytest.mark.parametrize("variable", ["GASTOWN_CONTAINER_TOKEN", "KILOCODE_TOKEN", "GASTOWN_CONTROL_TOKEN"])
def test_a_secret_from_a_file_may_end_in_a_newline(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    token = "a-token-of-at-least-32-characters"
    assert value(loaded(monkeypatch, **{variable: f"{token}\n"}), variable).reveal() == token


GIVEN = {
    "GASTOWN_API_URL": ("https://worker.test", "https://worker.test"),
    "GASTOWN_TOWN_ID": ("oak", "oak"),
    "GASTOWN_CONTROL_HOST": ("127.0.0.1", "127.0.0.1"),
    "GASTOWN_INSECURE": ("1", True),
    "GASTOWN_CONTROL_ORIGINS": (
        "https://Town.example, http://[::1]:3000, vscode-webview://0a1b",
        ("https://town.example", "http://[::1]:3000", "vscode-webview://0a1b"),
    ),
    "GASTOWN_AGENT_USER": ("agent", "agent"),
    "GASTOWN_AGENT_UIDS": ("20000-59999", (20_000, 59_999)),
    "GASTOWN_CONTROL_PORT": ("0", 0),
    "GASTOWN_WORKSPACE_ROOT": ("/w", "/w"),
    "GASTOWN_SPAWN_SLOTS": ("1", 1),
    "GASTOWN_SPAWN_SECONDS": ("2.5", 2.5),
    "GASTOWN_FIRST_WORD_SECONDS": ("0", 0),
    "GASTOWN_MAYOR_TOOLS": (" gt_sling, ,gt_mail ", ("gt_sling", "gt_mail")),
}


@pytest.mark.parametrize("variable", GIVEN)
def test_a_variable_that_is_set_is_taken(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    text, expected = GIVEN[variable]
    assert value(loaded(monkeypatch, **{variable: text}), variable) == expected


WRONG = [
    ("GASTOWN_CONTROL_PORT", "eighty-eighty"),
    ("GASTOWN_CONTROL_PORT", "65536"),
    ("GASTOWN_CONTROL_PORT", "-7777"),
    ("GASTOWN_SPAWN_SLOTS", "0"),
    ("GASTOWN_SPAWN_SLOTS", "many"),
    ("GASTOWN_SPAWN_SECONDS", "0"),
    ("GASTOWN_START_SECONDS", "-5555"),
    ("GASTOWN_GATE_SECONDS", "nan"),
    ("GASTOWN_DRAIN_SECONDS", "infinity"),
    ("GASTOWN_REFRESH_SECONDS", "six-please"),
    ("GASTOWN_WORKSPACE_ROOT", "relative/path"),
    ("GASTOWN_WORKSPACE_ROOT", "/"),
    ("GASTOWN_AGENT_HOME_ROOT", "somewhere"),
    ("GASTOWN_TOWN_ID", "../../secret-place"),
    ("GASTOWN_API_URL", "ftp://worker.secret"),
    ("GASTOWN_ORGANIZATION_ID", "secret-café"),
    ("GASTOWN_ORGANIZATION_ID", "secret\r\nX-Header: y"),
    ("KILO_API_URL", "gateway.secret"),
    ("AGENT_IDLE_TIMEOUT_MS", "0"),
    ("GASTOWN_PARENT_PID", "1"),
    ("GASTOWN_CONTROL_TOKEN", "x" * 31),
    ("GASTOWN_CONTROL_TOKEN", "x" * 513),
    ("GASTOWN_CONTROL_TOKEN", "a token of many words, which no header can hold"),
    ("GASTOWN_CONTROL_TOKEN", "\N{SNOWMAN}" * 40),
    ("GASTOWN_READ_TOKEN", "only-to-read-" * 3),
    ("GASTOWN_ATTACH_TOKEN", "only-to-attach-" * 3),
    ("GASTOWN_CONTROL_ORIGINS", "*"),
    ("GASTOWN_CONTROL_ORIGINS", "https://town.example/page"),
    ("GASTOWN_CONTROL_ORIGINS", "https://town.example/"),
    ("GASTOWN_CONTROL_ORIGINS", "oak.example"),
    ("GASTOWN_CONTROL_ORIGINS", "null"),
    ("GASTOWN_CONTAINER_TOKEN", "two\nlines"),
    ("GASTOWN_SESSION_TOKEN", "two words"),
    ("KILOCODE_TOKEN", "caf\u00e9-not-in-a-header"),
    ("GASTOWN_INSECURE", "perhaps"),
    ("GASTOWN_AGENT_UIDS", "20000"),
    ("GASTOWN_AGENT_UIDS", "30000-20000"),
    ("GASTOWN_AGENT_UIDS", "0-20000"),
    ("GASTOWN_AGENT_UIDS", "20000-4294967295"),
    ("GASTOWN_AGENT_UIDS", "some-more"),
]


@pytest.mark.parametrize(("variable", "text"), WRONG)
def test_a_value_that_cannot_be_used_is_one_line_that_names_the_variable_and_not_the_value(
    monkeypatch: pytest.MonkeyPatch, variable: str, text: str
) -> None:
    with pytest.raises(BadSettings) as caught:
        loaded(monkeypatch, **{variable: text})
    message = str(caught.value)
    assert message.startswith(f"{variable}: ")
    assert "\n" not in message
    assert len(text) < 4 or text not in message


def test_all_variables_that_cannot_be_used_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadSettings, match=r"^GASTOWN_CONTROL_PORT: .+; GASTOWN_SPAWN_SLOTS: .+$"):
        loaded(monkeypatch, GASTOWN_CONTROL_PORT="x", GASTOWN_SPAWN_SLOTS="x")


CONTROL, ATTACH, READ = ("control-" * 4, "attach--" * 4, "read----" * 4)


def test_three_tokens_that_differ_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = loaded(
        monkeypatch, GASTOWN_CONTROL_TOKEN=CONTROL, GASTOWN_ATTACH_TOKEN=ATTACH, GASTOWN_READ_TOKEN=READ
    )
    given = (settings.gastown_control_token, settings.gastown_attach_token, settings.gastown_read_token)
    assert [token.reveal() for token in given if token is not None] == [CONTROL, ATTACH, READ]


@pytest.mark.parametrize(
    ("tokens", "named"),
    [
        ((CONTROL, CONTROL, None), "GASTOWN_ATTACH_TOKEN: must differ from GASTOWN_CONTROL_TOKEN"),
        ((CONTROL, None, CONTROL), "GASTOWN_READ_TOKEN: must differ from GASTOWN_CONTROL_TOKEN"),
        ((CONTROL, ATTACH, ATTACH), "GASTOWN_READ_TOKEN: must differ from GASTOWN_ATTACH_TOKEN"),
    ],
)
def test_a_token_with_two_scopes_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, tokens: tuple[str | None, ...], named: str
) -> None:
    names = ("GASTOWN_CONTROL_TOKEN", "GASTOWN_ATTACH_TOKEN", "GASTOWN_READ_TOKEN")
    given = {name: token for name, token in zip(names, tokens, strict=True) if token is not None}
    with pytest.raises(BadSettings) as caught:
        loaded(monkeypatch, **given)
    assert str(caught.value) == named


def test_only_the_token_that_is_wrong_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadSettings) as caught:
        loaded(monkeypatch, GASTOWN_CONTROL_TOKEN="short", GASTOWN_READ_TOKEN=READ)
    assert str(caught.value).startswith("GASTOWN_CONTROL_TOKEN: must be 32 to 512 ")
    assert "GASTOWN_READ_TOKEN" not in str(caught.value)


def test_no_secret_is_in_the_repr(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = [
        "GASTOWN_CONTAINER_TOKEN",
        "GASTOWN_SESSION_TOKEN",
        "KILOCODE_TOKEN",
        "GASTOWN_CONTROL_TOKEN",
        "GASTOWN_ATTACH_TOKEN",
        "GASTOWN_READ_TOKEN",
    ]
    settings = loaded(monkeypatch, **{name: f"canary-{name}-of-thirty-two" for name in secrets})
    assert "canary" not in f"{settings!r}{settings}"


def test_children_inherit_an_allow_list_and_never_the_whole_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    passed_on = {
        "PATH": "/bin",
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "LC_ALL": "C",
        "TZ": "UTC",
        "https_proxy": "http://proxy.test",
        "NO_PROXY": "localhost,127.0.0.1,127.0.0.0/8,::1",
        "KILO_API_URL": "https://gateway.test",
        "KILO_OPENROUTER_BASE": "https://base.test",
    }
    kept = {
        "GASTOWN_CONTAINER_TOKEN": "t",
        "GASTOWN_CONTROL_TOKEN": "t" * 32,
        "KILOCODE_TOKEN": "t",
        "AWS_SECRET": "t",
        "PYTHONPATH": "/x",
    }
    settings = loaded(monkeypatch, **passed_on, **kept)
    assert {name: settings.base_env.get(name) for name in (*passed_on, *kept)} == {
        **passed_on,
        **dict.fromkeys(kept),
    }


def test_without_a_path_children_get_a_usual_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PATH")
    assert load().path == "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load().gastown_control_port = 1


@pytest.mark.parametrize("text", ["prod", '{"LD_PRELOAD": "/x"}'])
def test_no_variable_adds_to_what_children_inherit(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    before = load().base_env
    assert loaded(monkeypatch, BASE_ENV=text).base_env == before
