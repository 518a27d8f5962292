"""`make bench-drain`: how long a container takes to leave, with idle agents and with one in the midst of a turn.

A hall on loopback, `gastown serve` as its own process, the real kilo. Timed from the TERM to the end of the
process; beside it, in the same run, how long one kilo server alone takes to end.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import trio

from bench.boot import KILO, kilo_alone
from bench.processes import run
from gastown.contract.agents import StartAgentRequest
from gastown.hall.domain.town import town_config
from gastown.kilo.server import launch
from tests.kilo.town import RealTown, eventually, real_town


async def one_kilo_ends(home: Path) -> float:
    """Seconds from the TERM of a kilo server that has nothing to do to its end."""
    async with launch(kilo_alone(KILO, home)):
        await trio.sleep(1)  # it ends badly right after it is ready
        began = trio.current_time()
    return trio.current_time() - began


async def start(town: RealTown, number: int) -> None:
    """An agent without a repository, so that git has no part in what is timed."""
    config = town_config(await town.hall.town(), town.hall.url)
    request = StartAgentRequest(
        agent_id=f"triage-{number}",
        rig_id=f"rig-{number}",
        town_id=town.hall.town_id,
        role="triage",
        name=f"triage-{number}",
        identity="an agent of the benchmark",
        prompt="Think about it.",
        model="anthropic/claude-sonnet-4.6",
        git_url="",
        branch="",
        default_branch="",
        env_vars={"KILOCODE_TOKEN": config.kilocode_token or ""},
    )
    await town.dispatch.start(request, config)


async def idle(town: RealTown, number: int) -> bool:
    status = await town.dispatch.status(f"triage-{number}")
    return status is not None and status.condition is not None and status.condition.type == "idle"


async def drained(town: RealTown) -> float:
    """Seconds from the TERM to the container's end. SystemExit when it left with an error or lost something."""
    began = trio.current_time()
    town.container.terminate()
    with trio.fail_after(90):
        code = await town.container.wait()
    seconds = trio.current_time() - began
    lost = [reason for receipt in town.log("drain.receipt") for reason in receipt["lost"]]
    if code or lost:
        raise SystemExit(f"drain: the container left with {code} and lost: {', '.join(lost) or 'nothing'}")
    return seconds


async def measure(options: argparse.Namespace, folder: Path) -> dict[str, float]:
    found = {"agents": options.agents, "turn": options.turn_seconds}
    found["one_kilo_ends"] = await one_kilo_ends(folder / "alone")
    async with real_town(folder / "idle", {"turn_seconds": 0.1}, AGENT_IDLE_TIMEOUT_MS="3600000") as town:
        for number in range(options.agents):
            await start(town, number)
        for number in range(options.agents):
            await eventually(lambda number=number: idle(town, number))
        found["idle"] = await drained(town)
    async with real_town(folder / "busy", {"turn_seconds": options.turn_seconds}) as town:
        await start(town, 0)
        found["in_turn"] = await drained(town)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=int, default=8, help="idle agents (8)")
    parser.add_argument("--turn-seconds", type=float, default=5.0, help="length of the turn that is drained (5)")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gastown-bench-drain-") as folder:
        found = run(measure, options, Path(folder))
    print(f"one kilo server alone ends in            {found['one_kilo_ends']:6.2f} s")
    print(f"a drain of {options.agents} idle agents takes          {found['idle']:6.2f} s")
    print(f"a drain in a turn of {options.turn_seconds:g} s takes          {found['in_turn']:6.2f} s")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
