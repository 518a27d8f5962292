"""Which executable is started as kilo."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import pytest

from gastown.kilo.binary import KILO_VERSION, KiloMissing, find_kilo

PACKAGE = {"x86_64": "cli-linux-x64", "aarch64": "cli-linux-arm64"}.get(platform.machine(), "cli-linux-x64")


def executable(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    path.chmod(0o755)
    return path


def test_a_configured_executable_is_taken_as_it_is(tmp_path):
    kilo = executable(tmp_path / "any-name", "#!/bin/sh\n")
    assert find_kilo(str(kilo), "/nowhere") == str(kilo)


def test_a_configured_executable_that_is_none_is_named():
    with pytest.raises(KiloMissing, match="GASTOWN_KILO_BIN is '/no/kilo'"):
        find_kilo("/no/kilo", "/nowhere")


@pytest.mark.parametrize("configured", [None, "/no/kilo"])
def test_without_a_kilo_the_error_says_what_to_install_and_what_to_set(tmp_path, configured):
    with pytest.raises(KiloMissing) as caught:
        find_kilo(configured, str(tmp_path))
    assert f"npm install --global @kilocode/cli@{KILO_VERSION}" in str(caught.value)
    assert "GASTOWN_KILO_BIN" in str(caught.value)


def test_the_version_that_is_asked_for_is_the_pinned_one():
    pinned = json.loads((Path(__file__).parents[2] / "tools" / "kilo" / "package.json").read_text())
    assert set(pinned["dependencies"].values()) == {KILO_VERSION}


def test_a_native_kilo_on_the_path_is_taken(tmp_path):
    kilo = executable(tmp_path / "bin" / "kilo", "\x7fELF")
    assert find_kilo(None, str(kilo.parent)) == str(kilo)


@pytest.mark.parametrize("nested", [False, True], ids=["beside the wrapper", "below the wrapper"])
def test_behind_npms_wrapper_the_native_binary_is_taken(tmp_path, nested):
    modules = tmp_path / "node_modules" / "@kilocode"
    wrapper = executable(modules / "cli" / "bin" / "kilo", "#!/usr/bin/env node\n")
    home = modules / "cli" / "node_modules" / "@kilocode" if nested else modules
    native = executable(home / PACKAGE / "bin" / "kilo", "\x7fELF")
    links = tmp_path / "node_modules" / ".bin"
    links.mkdir()
    (links / "kilo").symlink_to(wrapper)
    assert find_kilo(None, str(links)) == str(native)
