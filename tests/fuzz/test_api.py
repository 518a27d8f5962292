"""Every operation of /openapi.json with what its schema allows and with what it does not: no answer is a crash."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
import trio

from tests.fuzz.budget import FACTOR
from tests.fuzz.container import BEARER

REPOSITORY = Path(__file__).parents[2]
CONFIG = Path(__file__).with_name("schemathesis.toml")


@pytest.fixture
def container(tmp_path: Path) -> Iterator[str]:
    """The address of a town on fakes behind a real socket; its log is in `container.log`."""
    log = tmp_path / "container.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.container"],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
        )
    assert process.stdout is not None
    try:
        address = process.stdout.readline().strip()
        assert address, log.read_text()
        yield address
    finally:
        process.communicate(timeout=60)
        crashes = [line for line in log.read_text().splitlines() if '"request.crashed"' in line]
    assert crashes == []
    assert process.returncode == 0


def test_every_answer_is_one_that_the_description_foresees(container: str, tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(CONFIG)]
    search = ["--generation-deterministic"] if FACTOR == 1 else ["--phases", "coverage,fuzzing,stateful"]
    description = tmp_path / "openapi.json"
    description.write_bytes(httpx2.get(f"{container}/openapi.json", headers=BEARER, trust_env=False).content)
    found = subprocess.run(
        [*command, "run", str(description), "--url", container, "--max-examples", str(5 * FACTOR), *search],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout


async def test_fifty_at_once_are_served_as_one_after_the_other(container: str) -> None:
    answers = []

    async def push(number: int) -> None:
        answers.append(await client.post("/dashboard-context", json={"context": f"page {number}"}))

    async with (
        httpx2.AsyncClient(base_url=container, headers=BEARER, timeout=60, trust_env=False) as client,
        trio.open_nursery() as nursery,
    ):
        for number in range(50):
            nursery.start_soon(push, number)
    assert [answer.status_code for answer in answers] == [200] * 50
