"""`make soak`: five minutes of what a town goes through in weeks, and whether anything of it is left.

A hall, `gastown serve` as its own process, the real kilo. A mayor and others are started, messaged, replaced,
stopped and crashed (their server gets a KILL) at random, from a seed that is printed. After every few of these all
agents are stopped, and the container is measured at rest: memory, open handles, threads, descendants, temporary
files. Over the time each must stay flat. Writes bench/soak.csv, and what the container logged to bench/soak.log;
ends with 1 when something grows.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import httpx2
import trio

from bench.drain import start
from bench.processes import resident_mb, run
from tests.kilo.town import RealTown, alive, descendants, eventually, real_town

TABLE = Path(__file__).with_name("soak.csv")
LOG = TABLE.with_suffix(".log")
OTHERS = [f"triage-{number}" for number in range(4)]
MOST_AT_ONCE = 3
MOST_COMEBACKS = 4
"""A mayor whose server dies once more in a quarter of an hour is given up."""
ACTIONS_A_ROUND = 4
FEWEST_RESTS = 6
"""A machine that is slow gets up to twice the seconds for them."""
PATIENCE = 90.0

ALLOWED = {"memory_mb": 4.0, "handles": 2.0, "threads": 4.0, "descendants": 0.0, "temporary_files": 0.0}
"""By how much each may have grown between the two halves of the time after the warm-up. Threads come and go."""


@dataclass(frozen=True)
class Sample:
    """The container at rest: no agent, nothing under way."""

    seconds: float
    actions: int
    memory_mb: float
    handles: int
    threads: int
    descendants: int
    temporary_files: int


class TooShort(Exception):
    """There are not enough samples to tell."""


def growth(samples: Sequence[Sample], name: str) -> float:
    """How much the median of the later half is above that of the earlier one; the first third is warm-up."""
    settled = [float(getattr(sample, name)) for sample in samples[len(samples) // 3 :]]
    if len(settled) < 4:
        raise TooShort(f"{len(samples)} samples are too few; give it more SECONDS")
    half = len(settled) // 2
    return statistics.median(settled[-half:]) - statistics.median(settled[:half])


def grown(samples: Sequence[Sample]) -> list[str]:
    """A sentence for each thing that is not flat. Raises `TooShort`."""
    found = {name: growth(samples, name) for name in ALLOWED}
    return [
        f"{name} grew by {by:.1f}, allowed are {ALLOWED[name]:g}"
        for name, by in found.items()
        if by > ALLOWED[name]
    ]


class Soak:
    """One container, and what is done to it."""

    def __init__(
        self, town: RealTown, client: httpx2.AsyncClient, mayor: str, chance: random.Random, temporary: Path
    ) -> None:
        self._town = town
        self._client = client
        self.mayor = mayor
        self._chance = chance
        self._temporary = temporary
        self._began = trio.current_time()
        self._running: set[str] = set()
        self.done: Counter[str] = Counter()

    async def act(self) -> None:
        """One thing at random, until it has had its effect."""
        actions = [self.message, self.replace, self.stop, self.crash, self.refresh] if self._running else []
        if len(self._running) < MOST_AT_ONCE:
            actions += [self.start] * 3
        action = self._chance.choice(actions)
        with trio.fail_after(PATIENCE):
            name = await action() or action.__name__
        self.done[name] += 1

    async def start(self) -> None:
        agent_id = self._chance.choice(sorted({self.mayor, *OTHERS} - self._running))
        await self._start(agent_id)
        self._running.add(agent_id)

    async def replace(self) -> None:
        """A second start of a running agent."""
        await self._start(self._one())

    async def message(self) -> None:
        await self._call("POST", f"/agents/{self._one()}/message", {"prompt": "And now?"})

    async def stop(self) -> None:
        agent_id = self._one()
        self._running.discard(agent_id)
        await self._call("POST", f"/agents/{agent_id}/stop", {})

    async def crash(self) -> str:
        """A KILL to an agent's server: the mayor comes back on another one, the others have failed."""
        agent_id = self._one()
        is_mayor = agent_id == self.mayor
        if is_mayor and self.done["crash of the mayor"] >= MOST_COMEBACKS:
            return "crash spared"
        before = await trio.to_thread.run_sync(self._town.server_of, agent_id)
        with suppress(ProcessLookupError):
            os.kill(before, signal.SIGKILL)

        async def settled() -> bool:
            status = await self._town.dispatch.status(agent_id)
            server = await trio.to_thread.run_sync(self._town.server_of, agent_id)
            if is_mayor:
                return status is not None and status.status == "running" and server not in (0, before)
            return status is not None and status.status == "failed" and server == 0

        await eventually(settled, PATIENCE)
        if not is_mayor:
            self._running.discard(agent_id)
        return "crash of the mayor" if is_mayor else "crash"

    async def refresh(self) -> None:
        hall = self._town.hall
        await self._town.dispatch.refresh_token(await hall.container_token(), hall.town_id)

    async def rest(self) -> Sample:
        """Stop what runs, wait until nothing is left of it, and measure."""
        for agent_id in sorted(self._running):
            await self._call("POST", f"/agents/{agent_id}/stop", {})
        self._running.clear()
        pid = self._town.container.pid

        async def quiet() -> bool:
            return not alive(descendants(pid))

        with trio.move_on_after(20):  # what is still there then is in the sample
            await eventually(quiet, 30)
        status = Path(f"/proc/{pid}/status").read_text()
        return Sample(
            seconds=round(trio.current_time() - self._began, 1),
            actions=sum(self.done.values()),
            memory_mb=round(resident_mb(pid), 1),
            handles=len(list(Path(f"/proc/{pid}/fd").iterdir())),
            threads=int(status.split("Threads:")[1].split()[0]),
            descendants=len(alive(descendants(pid))),
            temporary_files=sum(1 for path in self._temporary.rglob("*") if path.is_file()),
        )

    def _one(self) -> str:
        return self._chance.choice(sorted(self._running))

    async def _start(self, agent_id: str) -> None:
        if agent_id == self.mayor:
            await self._town.hall.start_mayor(self._town.dispatch, "Good morning.")
            return
        await start(self._town, OTHERS.index(agent_id))

    async def _call(self, method: str, path: str, body: object) -> None:
        answer = await self._client.request(method, path, json=body)
        if not answer.is_success:
            raise SystemExit(f"soak: {method} {path} was answered {answer.status_code}: {answer.text}")


@asynccontextmanager
async def open_soak(folder: Path, chance: random.Random) -> AsyncIterator[Soak]:
    """A town in `folder` whose mayor has been there once, at rest."""
    temporary = folder / "tmp"
    temporary.mkdir()
    settings = {"AGENT_IDLE_TIMEOUT_MS": "3600000", "TMPDIR": str(temporary)}
    async with (
        real_town(folder / "town", {"turn_seconds": 0.5}, **settings) as town,
        httpx2.AsyncClient(base_url=town.url, headers=town.bearer, timeout=PATIENCE, trust_env=False) as client,
    ):
        await town.prewarmed()
        mayor = (await town.hall.start_mayor(town.dispatch, "Good morning.")).agent_id
        (await client.post(f"/agents/{mayor}/stop")).raise_for_status()
        yield Soak(town, client, mayor, chance, temporary)


async def soak(options: argparse.Namespace, folder: Path) -> list[Sample]:
    """Rounds of random actions until the seconds are over; a sample after each."""
    samples: list[Sample] = []
    async with open_soak(folder, random.Random(options.seed)) as here:
        began = trio.current_time()
        while (spent := trio.current_time() - began) < options.seconds or (
            len(samples) < FEWEST_RESTS and spent < 2 * options.seconds
        ):
            for _ in range(ACTIONS_A_ROUND):
                await here.act()
            samples.append(await here.rest())
            print(" ".join(f"{name}={value}" for name, value in asdict(samples[-1]).items()), flush=True)
    print("soak: did", ", ".join(f"{number} {name}" for name, number in sorted(here.done.items())))
    return samples


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300.0, help="how long (300)")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="which random actions (any)")
    options = parser.parse_args()
    print(f"soak: {options.seconds:g} s, --seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="gastown-soak-") as folder:
        try:
            samples = run(soak, options, Path(folder))
        finally:
            shutil.copy(Path(folder) / "town" / "serve.log", LOG)
    with TABLE.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Sample)])
        writer.writeheader()
        writer.writerows(asdict(sample) for sample in samples)
    try:
        faults = grown(samples)
    except TooShort as short:
        faults = [str(short)]
    last = samples[-1]
    print(f"soak: {last.actions} actions in {last.seconds:g} s, {len(samples)} rests; ", end="")
    print("; ".join(faults) if faults else "all flat")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
