"""An open hall: a town's store, its web application, and its calls to the container."""

from __future__ import annotations

import json
import logging
import os
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

from hypercorn.typing import ASGIFramework

from gastown.asgi.origins import App
from gastown.contract.agents import PublicAgent
from gastown.contract.secret import Secret
from gastown.hall.api.context import Desk, HallContext, StandIn
from gastown.hall.app import LOGGER, create_app
from gastown.hall.control_client import ControlClient
from gastown.hall.domain.town import (
    STAND_IN_TOKEN,
    RigRecord,
    TownRecord,
    mayor_context,
    mayor_start_request,
    secrets_of,
    town_config,
)
from gastown.hall.git_http.addresses import town_at
from gastown.hall.git_http.route import GitOverHttp
from gastown.hall.lock import only_one
from gastown.hall.server import serving
from gastown.hall.stand_in.script import Script, ScriptUnusable, read_script
from gastown.hall.store.database import Store, TownChanges, open_store
from gastown.hall.tokens import mint
from gastown.isolation.ownership import write_whole

__all__ = ["ADDRESS", "USER_TOKEN", "Hall", "HallOptions", "open_hall"]

USER_TOKEN = "user.token"  # noqa: S105  a file name
"""The file in a town's directory that holds the bearer of its user API while the hall is open."""
ADDRESS = "hall.json"
"""The file beside it that says where: `{"town", "url", "pid"}`."""


def _wall_clock() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, kw_only=True)
class HallOptions:
    """What a hall is opened with.

    A given `default_model` is the town's from then on; `rigs` are added to those that it has, or take the place
    of one of the same id. `kilocode_token` and `organization_id` are for as long as the hall is open, and never
    in its database. Without a token, or with `STAND_IN_TOKEN`, the town uses the gateway stand-in, unless
    `stand_in` is false.
    `turn_seconds` is how long the stand-in takes over an answer, `script` the file that it plays. Port 0 is any
    free port. `secrets` is filled when the hall opens, with what its town has that no log may show.
    """

    data_dir: Path
    town_id: str = "town"
    host: str = "127.0.0.1"
    port: int = 0
    kilocode_token: Secret | None = None
    organization_id: str | None = None
    default_model: str | None = None
    rigs: Sequence[RigRecord] = ()
    turn_seconds: float = 0.0
    stand_in: bool = True
    script: Path | None = None
    now: Callable[[], datetime] = _wall_clock
    secrets: list[Secret] = field(default_factory=list[Secret], repr=False, compare=False)


@dataclass(frozen=True, kw_only=True)
class Hall:
    """An open hall. `url` answers; `stand_in` says which gateway the town's agents talk to.

    At the `desk` people are served; whoever runs the town's container says so there.
    """

    url: str
    town_id: str
    stand_in: bool
    store: Store
    now: Callable[[], datetime]
    desk: Desk = field(default_factory=Desk)

    async def town(self) -> TownRecord:
        """The town as it is configured now, with the addresses of now."""
        town = await town_at(self.store, self.town_id, self.url, self.now())
        if town is None:
            raise LookupError(f"town {self.town_id} is gone from the store")
        return town

    async def container_token(self) -> Secret:
        """A new token for the town's container."""
        secret = await self.store.jwt_secret(self.town_id)
        if secret is None:
            raise LookupError(f"town {self.town_id} is gone from the store")
        return mint(secret, self.town_id, self.now())

    async def start_mayor(self, control: ControlClient, prompt: str) -> PublicAgent:
        """Start the mayor with `prompt`, with the same context that `GET /mayor-id` gives to the prewarm.

        ControlCallFailed when the container does not start it; ValueError when the town has no mayor or no token.
        """
        town = await self.town()
        request = mayor_start_request(mayor_context(town), town, prompt)
        return await control.start(request, town_config(town, self.url))

    async def tell_mayor(self, control: ControlClient, agent_id: str, prompt: str) -> None:
        """Give the running mayor its next prompt; ControlCallFailed when the container refuses."""
        await control.message(agent_id, prompt, town_config(await self.town(), self.url))

    async def remember_session(self, session_id: str | None) -> None:
        """Remember which conversation the mayor is in, so that the next `up` can tell resumed from new."""
        await self.store.change_town(self.town_id, {"mayor_session_id": session_id})


@asynccontextmanager
async def open_hall(options: HallOptions) -> AsyncIterator[Hall]:
    """Open the town of `options.data_dir`, made the first time, and serve it for the length of the block.

    DirectoryUnusable, ScriptUnusable, StoreError or PortTaken, each with one clear sentence, when that is
    impossible.
    """
    script = await _script_of(options)
    with only_one(options.data_dir):
        async with open_store(options.data_dir / "hall.db", options.now) as store:
            town = await _settle_town(store, options)
            options.secrets[:] = secrets_of(town)
            stand_in, desk = _stand_in_of(town, options, script), Desk()

            def make(url: str) -> ASGIFramework:
                context = HallContext(
                    url=url,
                    store=store,
                    now=options.now,
                    stand_in=stand_in,
                    desk=desk,
                    secrets=options.secrets,
                )
                app = create_app(context)
                return cast(ASGIFramework, GitOverHttp(cast(App, app), store, options.now))

            logger = logging.getLogger(f"{LOGGER}.server")
            async with serving(make, host=options.host, port=options.port, logger=logger) as url:
                logging.getLogger(LOGGER).info("the hall of town %s answers at %s", options.town_id, url)
                with _found_at(options, url, desk, store):
                    yield Hall(
                        url=url,
                        town_id=options.town_id,
                        stand_in=stand_in is not None,
                        store=store,
                        now=options.now,
                        desk=desk,
                    )
                logging.getLogger(LOGGER).info("the hall of town %s closes", options.town_id)


@contextmanager
def _found_at(options: HallOptions, url: str, desk: Desk, store: Store) -> Iterator[None]:
    """For the length of the block, the hall's address and its user's token in files for their owner only.

    At the end the streams of events end, too.
    """
    token, address = options.data_dir / USER_TOKEN, options.data_dir / ADDRESS
    try:
        write_whole(token, f"{desk.token.reveal()}\n", 0o600)
        place = {"town": options.town_id, "url": url, "pid": os.getpid()}
        write_whole(address, json.dumps(place) + "\n", 0o600)
        yield
    finally:
        for path in (address, token):
            path.unlink(missing_ok=True)
        desk.closing.set()
        store.stepped.send()
        store.heard.send()


async def _script_of(options: HallOptions) -> Script | None:
    if options.script is None:
        return None
    if options.kilocode_token not in (None, STAND_IN_TOKEN):
        raise ScriptUnusable("a script plays in place of a language model: leave out either it or KILOCODE_TOKEN")
    return await read_script(options.script)


def _stand_in_of(town: TownRecord, options: HallOptions, script: Script | None) -> StandIn | None:
    """What plays in place of a language model, in a town without a token for one."""
    if not options.stand_in or town.kilocode_token not in (None, STAND_IN_TOKEN):
        return None
    return StandIn(turn_seconds=options.turn_seconds, token=STAND_IN_TOKEN, script=script)


async def _settle_town(store: Store, options: HallOptions) -> TownRecord:
    """Make the town the first time, change what is given, and return it."""
    await store.create_town(
        options.town_id,
        name=options.town_id,
        jwt_secret=Secret(secrets.token_urlsafe(48)),
        mayor_agent_id=f"mayor-{secrets.token_hex(4)}",
    )
    token = options.kilocode_token or (STAND_IN_TOKEN if options.stand_in else None)
    changes: TownChanges = {"kilocode_token": token, "organization_id": options.organization_id or None}
    if options.default_model:
        changes["default_model"] = options.default_model
    await store.change_town(options.town_id, changes)
    for rig in options.rigs:
        await store.save_rig(options.town_id, rig)
    town = await store.town(options.town_id)
    if town is None:
        raise LookupError(f"town {options.town_id} is gone from the store")
    return town
