"""Boot hydration: the supervised task that brings back the agents of the last container.

It holds the gate while the registry is read and claimed and while the mayor is prewarmed; the resumes
themselves go on after it has opened. Whatever happens here, the gate opens and the server goes on serving. A
worker that refuses the container's token is asked again, with the gate open, when there is another token.
"""

from __future__ import annotations

from dataclasses import dataclass

import structlog
import trio

from gastown.agents.agent import Agent
from gastown.agents.roster import Roster
from gastown.boot.collector import no_full_collections, out_of_reach
from gastown.boot.prewarm import prewarm_mayor
from gastown.boot.report import BootReport
from gastown.concurrency.backoff import delays
from gastown.concurrency.gate import HydrationGate
from gastown.concurrency.supervise import leaves
from gastown.concurrency.waiting import AT_ONCE
from gastown.worker.client import Registry, WorkerClient, WorkerError
from gastown.worker.registry import RegistryWriter
from gastown.worker.tokens import RENEW_BELOW_SECONDS, expiry

__all__ = ["Hydration", "hydrate"]

log = structlog.get_logger()

_READ_SECONDS = 10.0
_WHAT_HELPS = "hydration goes on with the next container token (POST /refresh-token)"


@dataclass(frozen=True)
class Hydration:
    """What hydration works with. `gate_seconds` bounds the part before the gate opens."""

    gate: HydrationGate
    worker: WorkerClient
    roster: Roster
    registry: RegistryWriter
    report: BootReport
    gate_seconds: float


async def hydrate(parts: Hydration) -> None:
    """Run boot hydration to its end: every resume settled. Never raises an `Exception`.

    It does not end while the worker refuses the container's token, but waits for another one and begins again.
    """
    with parts.gate.hold() as opened:
        while await _attempt(parts, opened):
            await parts.roster.services.credentials.token_after(parts.worker.refused)
    log.info("hydration.ended", state=parts.report.state)


async def _attempt(parts: Hydration, opened: trio.Event) -> bool:
    """Hydrate once, and leave the gate open. Returns whether the worker refused the container's token."""
    report, refused = parts.report, False
    report.state, report.error = "running", None

    try:
        with no_full_collections():
            claimed = await _hydrate(parts, opened)
        with out_of_reach():
            for agent in claimed:
                await agent.settled.wait()
    except Exception as error:  # a boundary: the container serves without its last agents
        causes = [cause for cause in leaves(error) if isinstance(cause, Exception)]
        refused = any(isinstance(cause, WorkerError) and cause.status == 401 for cause in causes)
        problems = [f"{type(cause).__name__}: {cause}" for cause in causes]
        report.state = "failed"
        report.error = "; ".join([*problems, _WHAT_HELPS] if refused else problems)[:1000]
        log.exception("hydration.failed", reason=report.error)
    opened.set()
    if report.state == "running":
        report.state = "complete"
    report.gate_opened_by = report.gate_opened_by or "failure"
    return refused


async def _hydrate(parts: Hydration, opened: trio.Event) -> list[Agent]:
    """Claim the agents, open the gate, and let them go on."""
    claimed: list[Agent] = []
    failures: list[Exception] = []
    releases: list[trio.Event] = []
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_open_in_time, parts, opened, name="gate deadline")
            await _renew_token(parts)
            async with trio.open_nursery() as front:
                front.start_soon(_claim, parts, releases, claimed, failures, name="claim")
                front.start_soon(_prewarm, parts, name="mayor prewarm")
            if not opened.is_set():
                parts.report.gate_opened_by = "hydration"
                opened.set()
            for release in releases:  # not all at once: nothing else would have its turn meanwhile
                release.set()
                await trio.lowlevel.checkpoint()
    finally:
        # Also after a failure: an agent that was claimed is resumed, or its attempt ends with a reason.
        for release in releases:
            release.set()
    if failures:
        raise failures[0]
    return claimed


async def _open_in_time(parts: Hydration, opened: trio.Event) -> None:
    with trio.move_on_after(parts.gate_seconds):
        await opened.wait()
    if not opened.is_set():
        parts.report.gate_opened_by = "deadline"
        log.warning("gate.deadline", seconds=parts.gate_seconds)
        opened.set()


async def _renew_token(parts: Hydration) -> None:
    """Refresh a container token that is about to expire. A failure is not fatal: calls refresh on 401 too."""
    token = parts.roster.services.credentials.current.container_token
    ends = expiry(token) if token else None
    if ends is None or ends - parts.roster.services.now().timestamp() > RENEW_BELOW_SECONDS:
        return
    try:
        with parts.report.bar("token"), trio.fail_after(_READ_SECONDS):
            await parts.worker.refresh_token()
    except (WorkerError, trio.TooSlowError) as error:
        log.warning("token.refresh_failed", reason=str(error) or "no answer in 10 s")


async def _claim(
    parts: Hydration, releases: list[trio.Event], claimed: list[Agent], failures: list[Exception]
) -> None:
    """Claim the agents; a failure is kept in `failures`, so that it does not cancel the prewarm."""
    try:
        await _claim_all(parts, releases, claimed)
    except Exception as error:  # noqa: BLE001 - raised again when the prewarm is over
        failures.append(error)


async def _claim_all(parts: Hydration, releases: list[trio.Event], claimed: list[Agent]) -> None:
    """Claim the agents, the mayor first. Each event that is added to `releases` lets some of them go on."""
    with parts.report.bar("registry"):
        registry = await _read_registry(parts)
    skipped = registry.skipped
    with parts.registry.held():
        for number, entry in enumerate(sorted(registry.entries, key=lambda entry: not entry.request.is_mayor)):
            if number % AT_ONCE == 0:
                releases.append(trio.Event())
                await trio.lowlevel.checkpoint()
            agent = parts.roster.claim(entry, releases[-1])
            if agent is None:
                skipped += 1
            else:
                claimed.append(agent)
                parts.report.resuming(agent)
        parts.report.skipped = skipped
        parts.registry.loaded()
    log.info("registry.claimed", agents=len(claimed), skipped=skipped)


async def _read_registry(parts: Hydration) -> Registry:
    """Read the registry; try again while the worker is away, for as long as the gate may stay closed."""
    pauses = delays(0.2, 3.0)
    until = trio.current_time() + parts.gate_seconds
    while True:
        try:
            with trio.fail_after(_READ_SECONDS):
                return await parts.worker.registry()
        except (WorkerError, trio.TooSlowError) as error:
            final = isinstance(error, WorkerError) and not error.transient
            pause = next(pauses)
            if final or trio.current_time() + pause > until:
                raise
            log.warning("registry.read_failed", reason=str(error) or "no answer in 10 s")
            await trio.sleep(pause)


async def _prewarm(parts: Hydration) -> None:
    """A prewarm that fails costs the mayor's start some seconds, and nothing else."""
    try:
        await prewarm_mayor(parts.worker, parts.roster, parts.report)
    except Exception as error:  # noqa: BLE001 - a boundary: the mayor starts without a prewarm
        reason = "; ".join(f"{type(cause).__name__}: {cause}" for cause in leaves(error))
        parts.report.prewarm = f"failed: {reason}"[:500]
        log.warning("mayor.prewarm_failed", reason=reason)
