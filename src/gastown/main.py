"""The process: it opens the town, serves it, brings back the agents of the last container, and drains.

What runs inside what, and in which order it opens, is recorded in docs/explanation/architecture.md.
"""

from __future__ import annotations

import os
import socket
import time
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import httpx2
import structlog
import trio

from gastown import logs
from gastown.agents.drain.town import run_drain
from gastown.assembly import Open, Parts, drain_parts, few_secrets, open_town, secret_books
from gastown.boot.accounts import agent_users, find_python
from gastown.boot.hydrate import Hydration, hydrate
from gastown.broker.outbound import outbound_client
from gastown.concurrency.descriptors import raise_descriptor_limit
from gastown.concurrency.loop_watch import watch_loop
from gastown.control.app import create_app
from gastown.control.server import listen_on, listening_host, serve_app
from gastown.git.helper_service import make_socket_folder
from gastown.kilo.binary import find_kilo
from gastown.kilo.client import http_client
from gastown.kilo.server import launch
from gastown.settings import Settings, unknown_settings

__all__ = ["serve"]

log = structlog.get_logger()


async def serve(settings: Settings) -> None:
    """Run the container until it is told to stop. Before it serves it may raise `CannotListen`, `KiloMissing`,
    `BadAgentUser`, `BadSettings` and `NoSocketFolder`.
    """
    _look_around()
    kilo_bin = find_kilo(settings.gastown_kilo_bin, settings.path)
    users = agent_users(settings, kilo_bin)
    host = listening_host(settings)
    listener = listen_on(host, settings.gastown_control_port)
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=20)
    async with (
        AsyncExitStack() as at_the_end,
        http_client() as kilo_client,
        outbound_client(limits=limits) as worker_client,
    ):
        parts = Parts(
            settings=settings,
            kilo_bin=kilo_bin,
            launch=launch,
            kilo_client=kilo_client,
            worker_client=worker_client,
            now=lambda: datetime.now(UTC),
            process_start=trio.current_time() - _process_age(),
            users=users,
            python=find_python(settings.gastown_agent_user, settings.path),
        )
        async with open_town(parts) as opened:
            opened.town.policy.warn_if_open(host)
            books = secret_books(opened.town.roster, opened.town.services)
            logs.configure(partial(few_secrets, settings, opened.town.services), books=books)
            shutdown = opened.town.drain.shutdown
            async with trio.open_nursery() as watches:
                await watches.start(shutdown.handle_signals, name="signals")
                watches.start_soon(shutdown.hard_exit_timer, at_the_end, name="last resort")
                if settings.gastown_parent_pid is not None:
                    watches.start_soon(shutdown.watch_parent, settings.gastown_parent_pid, name="parent watch")
                await _serve_until_drained(opened, listener)
                watches.cancel_scope.cancel(reason="the server has stopped")
    log.info("container.left")


def _look_around() -> None:
    """What the surroundings are good for, told in one sentence each before anything is open."""
    for name, nearest in unknown_settings().items():
        log.warning("settings.unknown", name=name, nearest=nearest)
    make_socket_folder().rmdir()  # one of its kind is needed
    raise_descriptor_limit()


async def _serve_until_drained(opened: Open, listener: socket.socket) -> None:
    """The front: the server, beside it boot hydration, then the drain while the server still answers."""
    shutdown = opened.town.drain.shutdown
    stop, hydrating = trio.Event(), trio.CancelScope()
    host, port = listener.getsockname()[:2]
    async with trio.open_nursery() as front:
        serving = partial(serve_app, crowd=opened.town.crowd)
        await front.start(serving, create_app(opened.town), listener, stop, name="hypercorn")
        log.info("container.serving", host=host, port=port)
        front.start_soon(_hydrate, opened.hydration, hydrating, name="boot hydration")
        async with watch_loop(opened.town.lag):
            await shutdown.requested.wait()
            hydrating.cancel(reason="the container drains")
            await run_drain(opened.town.drain, drain_parts(opened))
        opened.town.services.events.hub.close("The container stops")
        stop.set()


async def _hydrate(hydration: Hydration | None, scope: trio.CancelScope) -> None:
    with scope:
        if hydration is not None:
            await hydrate(hydration)


def _process_age() -> float:
    """Seconds since this process started, from /proc (clock ticks, 10 ms)."""
    stat = Path("/proc/self/stat").read_text("utf-8")
    ticks = int(stat.rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
