"""The whole control server in virtual time, without a socket: for tests of orchestrators and of this project.

An orchestrator does two things: it is the worker API that a container reports to, and it asks the container's
control API. `open_fake_town` (in a test: the fixture `open_town` of `gastown.testing.plugin`) opens a control
server as `gastown serve` does, all of it but sockets, processes and signals, between an orchestrator of yours and
kilo servers that are played:

- `orchestrator=app`: your ASGI app is served at http://worker, as the worker API of the town `TOWN`.
- `town.client` asks the control API; `town.network.client()` is a client for your orchestrator's own requests.
- `town.kilo` (a `FakeLauncher`) starts the agents' servers. `Script` says how a turn goes, `Fate` how a server's
  process goes; `SlowKilo`, `NeverKilo`, `CrashingKilo`, `DyingKilo` and `FailingPromptKilo` are named for
  what they do.
- `town.worker` (a `FakeWorker`) is the worker API where no orchestrator is given. It remembers what it is told.
- `Drainer(town)` drains the town once a drain is asked for, as `gastown serve` does. Without it `POST /drain` is
  answered and new starts are refused, but no agent leaves.
- `gastown.testing.faults` lets things go wrong on purpose.

Time is virtual: see `gastown.testing.clock` for the rules. All durations are in seconds. What is opened belongs to
the block that opened it, and nothing of it is left afterwards.
"""

from __future__ import annotations

from gastown.testing.clock import EPOCH, WallClock, in_virtual_time, threads_in_place
from gastown.testing.drainer import Drainer
from gastown.testing.kilo import FakeKilo, Home, Script, Session
from gastown.testing.launchers import (
    BROKEN_DATABASE,
    CrashingKilo,
    DyingKilo,
    FailingPromptKilo,
    FakeLauncher,
    FakeServer,
    Fate,
    NeverKilo,
    SlowKilo,
    Spawn,
)
from gastown.testing.network import MemoryNetwork, open_network
from gastown.testing.town import TOWN, FakeTown, Later, open_fake_town, start_request
from gastown.testing.worker import ROUTES, Call, DeafWorker, FakeWorker, SlowWorker, token_until

__all__ = [
    "BROKEN_DATABASE",
    "EPOCH",
    "ROUTES",
    "TOWN",
    "Call",
    "CrashingKilo",
    "DeafWorker",
    "Drainer",
    "DyingKilo",
    "FailingPromptKilo",
    "FakeKilo",
    "FakeLauncher",
    "FakeServer",
    "FakeTown",
    "FakeWorker",
    "Fate",
    "Home",
    "Later",
    "MemoryNetwork",
    "NeverKilo",
    "Script",
    "Session",
    "SlowKilo",
    "SlowWorker",
    "Spawn",
    "WallClock",
    "in_virtual_time",
    "open_fake_town",
    "open_network",
    "start_request",
    "threads_in_place",
    "token_until",
]
