"""One place says which version this is; everything that tells a version tells that one."""

from __future__ import annotations

import importlib.metadata

import pytest

from gastown import __version__, cli

pytestmark = pytest.mark.virtual_time


def test_the_installed_package_has_the_version_of_the_source() -> None:
    """It fails when `__version__` was changed and `make setup` was not run since."""
    assert importlib.metadata.version("gastown") == __version__


def test_the_command_tells_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert (ended.value.code, capsys.readouterr().out) == (0, f"gastown {__version__}\n")


async def test_the_container_tells_its_version_in_its_health_and_in_its_description(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        assert (await town.health())["version"] == __version__
        described = (await town.client.get("/openapi.json")).json()
    assert described["info"]["version"] == __version__
