"""A whole town on fakes: everything of `gastown.assembly` but sockets, processes and signals."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any, cast

import httpx2
import structlog
import trio
import trio.testing
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from gastown import logs
from gastown.agents.roster import workdir_of
from gastown.asgi.origins import App as ControlApp
from gastown.assembly import Open, Parts, open_town
from gastown.boot.hydrate import hydrate
from gastown.broker.forward import BrokerApp
from gastown.broker.grants import Grants
from gastown.broker.listener import Broker
from gastown.broker.upstreams import Upstreams
from gastown.concurrency.supervise import leaves
from gastown.contract.agents import StartAgentRequest
from gastown.control.app import create_app
from gastown.control.server import HypercornLayer
from gastown.git.command import GitRunner
from gastown.git.salvage.salvage import salvage
from gastown.git.workspace import WorkspacePaths
from gastown.isolation.agent_users import AgentUsers
from gastown.settings import Settings
from gastown.testing.asgi import App
from gastown.testing.clock import EPOCH, LONGEST_SECONDS, WallClock
from gastown.testing.git import FakeGit
from gastown.testing.launchers import FakeLauncher
from gastown.testing.network import MemoryNetwork, open_network
from gastown.testing.worker import FakeWorker, token_until
from gastown.testing.worktree import nothing_to_save

__all__ = ["TOWN", "FakeTown", "make_room", "open_fake_town", "start_request"]

TOWN = "oak"


class ToldSettings(Settings):
    """Settings that say what the test says: the environment of the test run is not asked."""

    def __init__(self, base_env: Mapping[str, str] | None = None, **told: Any) -> None:
        super().__init__(base_env, **told)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


def start_request(agent_id: str = "mayor-1", **changes: Any) -> dict[str, Any]:
    """The body of a start: a mayor for an id that begins so, else a polecat with a branch of its own."""
    mayor = agent_id.startswith("mayor")
    body = {
        "agentId": agent_id,
        "rigId": f"mayor-{TOWN}" if mayor else "rig-1",
        "townId": TOWN,
        "role": "mayor" if mayor else "polecat",
        "name": "mayor" if mayor else agent_id,
        "identity": f"{agent_id} of {TOWN}",
        "prompt": "Do it",
        "model": "test/large",
        "smallModel": "test/small",
        "gitUrl": "" if mayor else "https://git.test/r.git",
        "branch": "" if mayor else f"work-{agent_id}",
        "defaultBranch": "" if mayor else "main",
        "envVars": {"KILOCODE_TOKEN": "kilo-token"},
        "organizationId": None,
    }
    return {name: value for name, value in (body | changes).items() if value is not ...}


def make_room(root: str, request: dict[str, Any]) -> str:
    """Make an agent's working directory as it is on a second boot: then no git runs under a virtual clock."""
    workdir = workdir_of(StartAgentRequest.model_validate(request), WorkspacePaths(root))
    heads = Path(workdir) / ".git" / "refs" / "heads"
    heads.mkdir(parents=True, exist_ok=True)
    (heads / "main").write_text("0" * 40, "utf-8")
    return workdir


@dataclass
class FakeTown:
    """An open town, what it talks to, and short ways to say common things.

    `client` asks its control API, at http://town; `kilo` starts its servers, `worker` is the worker API that it
    reports to. `network` is where all of them listen: `network.client()` makes further clients, which are closed
    with it. What a test begins in `nursery` ends with the town. `clock` is the town's wall clock, `log` what it
    wrote, `opened` the running services themselves.
    """

    opened: Open
    settings: Settings
    network: MemoryNetwork
    kilo: FakeLauncher
    worker: FakeWorker
    client: httpx2.AsyncClient
    nursery: trio.Nursery
    log: StringIO
    clock: WallClock

    def hydrate(self) -> trio.CancelScope:
        """Begin boot hydration as `main` does; returns what cancels it. The gate closes before this returns
        to a task that has waited for anything."""
        scope = trio.CancelScope()

        async def run() -> None:
            with scope:
                await self.hydrated()

        self.nursery.start_soon(run, name="boot hydration")
        return scope

    async def hydrated(self) -> None:
        """Run boot hydration to its end."""
        assert self.opened.hydration is not None, "a town without a worker has nothing to hydrate from"
        await hydrate(self.opened.hydration)

    async def start(self, agent_id: str = "mayor-1", **changes: Any) -> httpx2.Response:
        """Start an agent whose working directory is there; `headers` and keys of the body may be given."""
        headers = changes.pop("headers", None)
        body = start_request(agent_id, **changes)
        make_room(self.settings.gastown_workspace_root, body)
        return await self.client.post("/agents/start", json=body, headers=headers)

    def start_soon(self, agent_id: str = "mayor-1", **changes: Any) -> Later:
        """Begin a start in the background."""
        return self.later(lambda: self.start(agent_id, **changes))

    def later(self, call: Callable[[], Any]) -> Later:
        """Begin a request in the background."""
        later = Later(trio.current_time())

        async def run() -> None:
            with later.scope:
                later.response = await call()
            later.seconds = trio.current_time() - later.began
            later.done.set()

        self.nursery.start_soon(run, name="request")
        return later

    async def status(self, agent_id: str = "mayor-1") -> dict[str, Any]:
        """What GET /agents/{id}/status says."""
        return await self._told(f"/agents/{agent_id}/status")

    async def condition(self, agent_id: str = "mayor-1") -> str | None:
        """The type of an agent's condition."""
        found: dict[str, str] | None = (await self.status(agent_id))["condition"]
        return None if found is None else found["type"]

    async def health(self) -> dict[str, Any]:
        """What GET /health says."""
        return await self._told("/health")

    async def events(self, agent_id: str = "mayor-1") -> list[dict[str, Any]]:
        """The kept events of an agent, oldest first."""
        found: list[dict[str, Any]] = (await self._told(f"/agents/{agent_id}/events"))["events"]
        return found

    async def _told(self, path: str) -> dict[str, Any]:
        body: dict[str, Any] = (await self.client.get(path)).json()
        return body

    def entry(self, agent_id: str, **changes: Any) -> dict[str, Any]:
        """A registry entry whose working directory is there; `env` and `workdir` may be given."""
        env, workdir = changes.pop("env", {}), changes.pop("workdir", None)
        request = start_request(agent_id, **changes)
        made = make_room(self.settings.gastown_workspace_root, request)
        return {"agentId": agent_id, "request": request, "workdir": workdir or made, "env": env}

    def mayor_known(self, **changes: Any) -> None:
        """Let the worker know the mayor that `start_request()` starts."""
        make_room(self.settings.gastown_workspace_root, start_request())
        known = {
            "success": True,
            "agentId": "mayor-1",
            "model": "test/large",
            "smallModel": "test/small",
            "kilocodeToken": "kilo-token",
            "organizationId": None,
        }
        self.worker.mayor = {key: value for key, value in (known | changes).items() if value is not ...}

    def logged(self, event: str | None = None) -> list[dict[str, Any]]:
        """The log's lines, or those of one event."""
        lines = [json.loads(line) for line in self.log.getvalue().splitlines()]
        return [line for line in lines if event in (None, line["event"])]


class Later:
    """A request in the background. `seconds` is how long it took, on Trio's clock."""

    def __init__(self, began: float) -> None:
        self.began = began
        self.seconds = 0.0
        self.done = trio.Event()
        self.scope = trio.CancelScope()
        self.response: Any = None

    async def result(self) -> httpx2.Response:
        """The answer, once it is there."""
        await self.done.wait()
        response: httpx2.Response = self.response
        return response

    def leave(self) -> None:
        """Be a client that goes away."""
        self.scope.cancel(reason="the client leaves")


@asynccontextmanager
async def open_fake_broker(network: MemoryNetwork, upstreams: Upstreams) -> AsyncIterator[Broker]:
    """The town's broker, at http://broker."""
    grants = Grants()
    app = BrokerApp(grants, network.client(), upstreams)
    network.serve(app, "broker")
    yield Broker("http://broker", grants, app.figures)


@asynccontextmanager
async def open_fake_town(
    folder: Path,
    *,
    orchestrator: App | None = None,
    kilo: Callable[[MemoryNetwork], FakeLauncher] = FakeLauncher,
    worker: Callable[[MemoryNetwork], FakeWorker] | None = FakeWorker,
    git: GitRunner | None = None,
    users: AgentUsers | None = None,
    **settings: Any,
) -> AsyncIterator[FakeTown]:
    """A town at http://town for the length of the block, not hydrated.

    `orchestrator` is an ASGI app that is the worker API of this town, at http://worker: your own, in the place of
    `worker`, which is asked nothing then. It is served as a server would, without a lifespan. `worker=None` gives
    the container no worker. `kilo` makes the launcher of its servers: `FakeLauncher`, one of its kinds, or a
    `partial` of them. `settings` are those of `gastown.settings.Settings`, in lower case. The town's files are put
    below `folder`, which stays the caller's.

    Raises what the block raises. Ends with `trio.TooSlowError` after six virtual hours, and with
    `AssertionError` outside of virtual time, for a server that is left, or when an app of the network raised.
    """
    assert isinstance(trio.lowlevel.current_clock(), trio.testing.MockClock), "the module is not in virtual time"
    with_worker = worker is not None or orchestrator is not None
    told = ToldSettings(**_settings(folder, with_worker=with_worker) | settings)
    with _log() as log, _plain_errors(), trio.fail_after(LONGEST_SECONDS):
        async with open_network() as network, trio.open_nursery() as nursery:
            knows = (worker or FakeWorker)(network)
            if orchestrator is not None:
                network.serve(orchestrator, knows.host)
            launcher, clock = kilo(network), WallClock()
            parts = _parts(told, network, launcher, clock, git=git or FakeGit(), users=users or AgentUsers())
            async with open_town(parts) as opened:
                network.serve(_control(opened), "town")
                client = network.client("http://town")
                yield FakeTown(opened, told, network, launcher, knows, client, nursery, log, clock)
                nursery.cancel_scope.cancel(reason="the test is over")
            assert launcher.live == []


@contextmanager
def _log() -> Iterator[StringIO]:
    """What is logged within the block, a JSON object a line."""
    log = StringIO()
    logs.configure(tuple, log)
    try:
        yield log
    finally:
        structlog.reset_defaults()


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Every service is a nursery: a test's own failure would be ten exception groups deep."""
    try:
        yield
    except BaseExceptionGroup as group:
        if len(found := leaves(group)) == 1 and isinstance(found[0], Exception):
            raise found[0] from None
        raise


def _parts(
    settings: Settings,
    network: MemoryNetwork,
    launcher: FakeLauncher,
    clock: WallClock,
    *,
    git: GitRunner,
    users: AgentUsers,
) -> Parts:
    return Parts(
        settings=settings,
        kilo_bin="/usr/bin/kilo",
        launch=launcher,
        kilo_client=network.client(),
        worker_client=network.client(),
        now=clock,
        process_start=trio.current_time(),
        git=git,
        salvage=nothing_to_save if isinstance(git, FakeGit) else salvage,
        users=users,
        open_broker=partial(open_fake_broker, network),
    )


def _control(opened: Open) -> App:
    # quart's types are stricter than the dictionaries of ASGI
    return HypercornLayer(cast("ControlApp", create_app(opened.town)))


def _settings(folder: Path, *, with_worker: bool) -> dict[str, Any]:
    base = {
        "gastown_town_id": TOWN,
        "gastown_workspace_root": str(folder / "rigs"),
        "gastown_agent_home_root": str(folder / "homes"),
        "gastown_spawn_slots": 2,
        "gastown_insecure": True,  # its client calls it by the name of no machine
        "gastown_container_token": token_until(EPOCH.timestamp() + 8 * 3600),
        "base_env": {"PATH": "/usr/bin:/bin"},
    }
    return base | ({"gastown_api_url": "http://worker"} if with_worker else {})
