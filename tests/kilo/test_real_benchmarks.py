"""The benchmarks that need the real kilo, in their smallest form: who breaks one sees it before its next use."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from bench.figures import COLLECTED
from bench.soak import OTHERS, open_soak
from tests.kilo.town import alive, children, command_of, descendants, eventually

pytestmark = pytest.mark.kilo

REPOSITORY = Path(__file__).parents[2]
SMALLEST = {
    "boot": ["--agents", "1", "--turn-seconds", "0.1"],
    "drain": ["--agents", "1", "--turn-seconds", "0.1"],
    "git": ["--files", "20", "--commits", "1", "--latency", "0", "--clones", "partial"],
    "memory": ["--agents", "0"],
}


@pytest.mark.parametrize("part", SMALLEST)
def test_a_benchmark_runs_and_its_figures_are_collected(part: str, tmp_path: Path) -> None:
    report = tmp_path / "figures.json"
    command = [sys.executable, "-m", f"bench.{part}", *SMALLEST[part], "--json", str(report)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    assert min(figure.ratio for figure in COLLECTED[part](json.loads(report.read_text()))) > 0


@pytest.mark.parametrize("when", ["a server alone", "a town"])
async def test_no_server_outlives_a_benchmark_that_is_killed(when: str, tmp_path: Path) -> None:
    command, environment = (
        [sys.executable, "-m", "bench.drain", "--agents", "1"],
        {**os.environ, "TMPDIR": str(tmp_path)},
    )
    program = await trio.lowlevel.open_process(command, cwd=REPOSITORY, env=environment, stdout=subprocess.DEVNULL)

    async def there() -> list[int]:
        below = descendants(program.pid)
        servers = [pid for pid in below if command_of(pid)[1:2] == ["serve"]]
        deep = [pid for pid in servers if pid not in children(program.pid)]
        return below if (deep if when == "a town" else servers) else []

    try:
        below = await eventually(there)
    finally:
        program.send_signal(signal.SIGKILL)
        with trio.move_on_after(60, shield=True):
            await program.wait()

    async def gone() -> bool:
        return not alive(below)

    await eventually(gone)


class Script(random.Random):
    """No chance: chooses what `wanted` names, one after the other."""

    wanted: list[str]

    def choice(self, among) -> Any:
        name = self.wanted.pop(0)
        return next(one for one in among if name in (one, getattr(one, "__name__", None)))


async def test_a_soak_does_every_one_of_its_actions_and_comes_to_rest(tmp_path):
    chance = Script()
    async with open_soak(tmp_path, chance) as here:
        other, mayor = OTHERS[0], here.mayor
        chance.wanted = [
            "start", other, "message", other, "refresh", "replace", other, "crash", other,
            "start", mayor, "crash", mayor, "stop", mayor,
        ]  # fmt: skip
        while chance.wanted:
            await here.act()
        sample = await here.rest()
    done = {"start": 2, "message": 1, "refresh": 1, "replace": 1, "crash": 1, "crash of the mayor": 1, "stop": 1}
    assert here.done == done
    assert (sample.actions, sample.descendants) == (8, 0)
