"""What children get of the environment: programs of the machine, and no proxy before loopback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from gastown.broker.outbound import outbound_client
from gastown.inherited import inherited, misspelt, path_without, unusable_proxy
from gastown.kilo.binary import KiloMissing, find_kilo
from gastown.settings import BadSettings, Settings, load

PROXY = "http://proxy.test:3128"


@pytest.mark.parametrize(
    "path",
    [
        "",
        ":",
        ".",
        "./bin",
        "bin",
        "..",
        "::/usr/bin",
        "node_modules/.bin:/usr/bin",
        "{here}:/usr/bin",
        "{here}/.:.",
    ],
)
def test_no_program_comes_from_a_relative_entry_or_from_the_folder_of_the_start(path: str, tmp_path: Path) -> None:
    for name in ("kilo", "git", "bin/kilo", "node_modules/.bin/kilo"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    told = path.format(here=tmp_path)
    shown = (
        "import sys; from gastown.inherited import inherited; print(inherited({'PATH': sys.argv[1]})['PATH'])",
        told,
    )
    kept = subprocess.run(
        [sys.executable, "-P", "-c", *shown], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=30
    ).stdout.strip()
    entries = kept.split(":")
    assert entries
    assert all(entry.startswith("/") and Path(entry).resolve() != tmp_path for entry in entries)
    with pytest.raises(KiloMissing):
        find_kilo(None, path_without(told, os.path.realpath(tmp_path)) or "/nonexistent")


def test_a_kilo_that_is_named_relative_to_the_start_is_run_as_that_one(tmp_path: Path, monkeypatch) -> None:
    """A server runs in another folder, and would look there."""
    (tmp_path / "kilo").write_text("#!/bin/sh\n")
    (tmp_path / "kilo").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    assert find_kilo("./kilo", "/usr/bin") == str(tmp_path / "kilo")


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"])
@pytest.mark.parametrize(
    "known", [{}, {"no_proxy": "a.test"}, {"NO_PROXY": "a.test, b.test", "no_proxy": "c.test"}]
)
def test_where_there_is_a_proxy_no_child_asks_it_for_loopback(name: str, known: dict[str, str]) -> None:
    env = inherited({name: PROXY, **known})
    assert env["NO_PROXY"] == env["no_proxy"]
    told = env["NO_PROXY"].split(",")
    assert {"localhost", "127.0.0.1", "::1"} <= set(told)
    assert [host for host in told if host.endswith(".test")] == [
        host.strip() for value in known.values() for host in value.split(",")
    ]


@pytest.mark.parametrize("said", ["*", " *", "a.test,*"])
def test_an_asterisk_that_means_no_proxy_at_all_stands_alone(said: str) -> None:
    """curl, and so git, does not know it beside other names: its calls would go to the proxy."""
    env = inherited({"PATH": "/bin", "http_proxy": "http://p.test:1", "no_proxy": said})
    assert (env["NO_PROXY"], env["no_proxy"]) == ("*", "*")


def test_without_a_proxy_nothing_is_said_of_one() -> None:
    assert not {"NO_PROXY", "no_proxy"} & inherited({"PATH": "/bin", "http_proxy": ""}).keys()


@pytest.mark.parametrize("host", ["127.0.0.1:80", "localhost:8080", "[::1]:1", "127.9.9.9", "hall.localhost:5"])
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("names", [("HTTP_PROXY", "HTTPS_PROXY"), ("http_proxy", "https_proxy"), ("ALL_PROXY",)])
async def test_our_clients_ask_loopback_themselves_and_others_by_the_proxy(
    monkeypatch, names: tuple[str, ...], scheme: str, host: str
) -> None:
    for name in (*os.environ,):
        if name.upper().endswith("_PROXY"):
            monkeypatch.delenv(name)
    for name in names:
        monkeypatch.setenv(name, PROXY)
    async with outbound_client() as client:
        direct = client._transport_for_url(httpx2.URL(f"{scheme}://{host}/x"))
        assert direct is client._transport
        assert client._transport_for_url(httpx2.URL(f"{scheme}://worker.test/x")) is not client._transport


@pytest.mark.parametrize("name", ["ALL_PROXY", "all_proxy", "HTTPS_PROXY"])
@pytest.mark.parametrize(
    "value", ["socks5://proxy.test:1080", "socks5h://user:word@proxy.test", "ftp://proxy.test"]
)
def test_a_proxy_that_cannot_be_used_is_one_sentence_without_its_password(
    monkeypatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(BadSettings) as caught:
        load()
    assert str(caught.value).startswith(f"{name}: must be a proxy with http:// or https://; ")
    assert "word" not in str(caught.value)
    assert unusable_proxy({"HTTPS_PROXY": "proxy.test:3128", "NO_PROXY": "socks5://x"}) is None


def test_a_proxy_of_no_form_is_one_sentence_too(monkeypatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.test:port")
    with pytest.raises(BadSettings, match="HTTP_PROXY"):
        outbound_client()


def test_a_misspelt_setting_is_named_with_the_one_that_was_meant() -> None:
    known = [name.upper() for name in Settings.model_fields]
    given = {
        "GASTOWN_SPAWN_SLOT",
        "GASTOWN_SPAWN_SLOTS",
        "GASTOWN_XYZZY_ON",
        "GASTOWN_AGENT_ID",
        "PATH",
        "GASTOWN_PORT",
    }
    assert misspelt(given, known) == {
        "GASTOWN_PORT": misspelt({"GASTOWN_PORT"}, known)["GASTOWN_PORT"],
        "GASTOWN_SPAWN_SLOT": "GASTOWN_SPAWN_SLOTS",
        "GASTOWN_XYZZY_ON": None,
    }
