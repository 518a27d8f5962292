"""A network without sockets: every connection is a pair of memory streams, served by a real hypercorn."""

from __future__ import annotations

import socket
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import httpcore2
import httpx2
import trio
from hypercorn.config import Config
from hypercorn.typing import ASGIFramework

from gastown.asgi.hypercorn_seams import Connections
from gastown.asgi.origins import Receive, Scope, Send
from gastown.testing.asgi import App

__all__ = ["MemoryNetwork", "open_network"]

Address = tuple[str, int]


class MemoryNetwork:
    """Made by `open_network`. Addresses are (host, port); a port of 80 is what a URL without one means."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._sites: dict[Address, App] = {}
        self._unplugged: set[Address] = set()
        self._wires: defaultdict[Address, set[_Wire]] = defaultdict(set)
        self._clients: list[httpx2.AsyncClient] = []
        self._config = Config()
        self._config.keep_alive_timeout = 75
        self._config.include_server_header = False
        self._config.websocket_ping_interval = 20
        self._config.errorlog = None
        self._config.accesslog = None
        self.crashes: list[BaseException] = []

    def serve(self, app: App, host: str, port: int = 80) -> None:
        """Listen at an address."""
        self._sites[host, port] = app

    def withdraw(self, host: str, port: int = 80) -> None:
        """Stop listening, and break what is connected."""
        self._sites.pop((host, port), None)
        self.cut(host, port)

    def cut(self, host: str, port: int = 80) -> None:
        """Break every live connection to an address: the client sees a reset, the server an end."""
        for wire in list(self._wires[host, port]):
            wire.cut()

    def unplug(self, host: str, port: int = 80) -> None:
        """Cut what is connected, and refuse connections until `plug`."""
        self._unplugged.add((host, port))
        self.cut(host, port)

    def plug(self, host: str, port: int = 80) -> None:
        """Let an address be reached again."""
        self._unplugged.discard((host, port))

    def connections(self, host: str, port: int = 80) -> int:
        """How many connections to an address live now."""
        return len(self._wires[host, port])

    def client(self, base_url: str = "") -> httpx2.AsyncClient:
        """A client in this network, without time-outs. It is closed with the network."""
        transport = httpx2.AsyncHTTPTransport(verify=False)
        cast("Any", transport)._pool = httpcore2.AsyncConnectionPool(
            network_backend=_Backend(self), max_connections=None, max_keepalive_connections=20
        )
        client = httpx2.AsyncClient(transport=transport, base_url=base_url, timeout=None, trust_env=False)
        self._clients.append(client)
        return client

    async def connect(self, host: str, port: int) -> _Wire:
        await trio.lowlevel.checkpoint()
        app = self._sites.get((host, port))
        if app is None or (host, port) in self._unplugged:
            raise httpcore2.ConnectError(f"nothing listens on {host}:{port}")
        wire = _Wire()
        self._wires[host, port].add(wire)
        self._nursery.start_soon(self._serve, app, wire, (host, port), name=f"connection {host}:{port}")
        return wire

    async def _serve(self, app: App, wire: _Wire, address: Address) -> None:
        async def watched(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await app(scope, receive, send)
            except Exception as error:
                self.crashes.append(error)
                raise

        served = cast("ASGIFramework", watched)  # its types are stricter than ASGI's dicts
        try:
            with wire.scope:
                await Connections(served, self._config).run(wire.server)
        finally:
            self._wires[address].discard(wire)
            wire.close()

    async def aclose(self) -> None:
        """Close the clients and break every connection; `open_network` does it."""
        for client in self._clients:
            await client.aclose()
        self._nursery.cancel_scope.cancel(reason="the network closes")


@asynccontextmanager
async def open_network() -> AsyncIterator[MemoryNetwork]:
    """A network for the length of the block. Fails at its end when an app in it has crashed."""
    async with trio.open_nursery() as nursery:
        network = MemoryNetwork(nursery)
        try:
            yield network
        finally:
            with trio.move_on_after(5, shield=True):
                await network.aclose()
    assert network.crashes == []


class _Wire:
    """One connection."""

    def __init__(self) -> None:
        # What httpcore asks of a socket, and hypercorn of a stream, is inside trio's memory streams.
        self.client: Any
        self.server: Any
        self.client, self.server = trio.testing.memory_stream_pair()
        self.server.socket = _Socket()
        self.scope = trio.CancelScope()
        self.broken = False

    @property
    def readable(self) -> bool:
        """Whether a read would return at once: bytes that no read has asked for, or the end."""
        incoming = self.client.receive_stream._incoming
        return bool(incoming._data) or incoming._closed

    def cut(self) -> None:
        self.broken = True
        self.scope.cancel(reason="the connection was cut")
        self.close()

    def close(self) -> None:
        self.server.send_stream.close()
        self.server.receive_stream.close()
        self.client.receive_stream._incoming.close()


class _Socket:
    """What hypercorn asks of a stream's socket."""

    family = socket.AF_INET

    def getsockname(self) -> Address:
        return ("127.0.0.1", 80)

    def getpeername(self) -> Address:
        return ("127.0.0.1", 50_000)


class _Stream(httpcore2.AsyncNetworkStream):
    """The client's end."""

    def __init__(self, wire: _Wire) -> None:
        self._wire = wire

    async def read(self, max_bytes: int, *_: Any, **__: Any) -> bytes:
        try:
            data = bytes(await self._wire.client.receive_some(max_bytes))
        except (trio.ClosedResourceError, trio.BrokenResourceError) as error:
            raise httpcore2.ReadError(str(error)) from error
        if not data and self._wire.broken:
            raise httpcore2.ReadError("connection reset")
        return data

    async def write(self, buffer: bytes, *_: Any, **__: Any) -> None:
        try:
            await self._wire.client.send_all(buffer)
        except (trio.ClosedResourceError, trio.BrokenResourceError) as error:
            raise httpcore2.WriteError(str(error)) from error

    async def aclose(self) -> None:
        await self._wire.client.aclose()

    def get_extra_info(self, info: str) -> Any:
        return self._wire.readable if info == "is_readable" else None


class _Backend(httpcore2.AsyncNetworkBackend):
    def __init__(self, network: MemoryNetwork) -> None:
        self._network = network

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the signature of httpcore2
        local_address: str | None = None,
        socket_options: Any = None,
    ) -> _Stream:
        return _Stream(await self._network.connect(host, port))

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)
