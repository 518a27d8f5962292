"""`make bench-broker`: what the broker adds to a streamed answer of the language model.

Everything is a process of its own on loopback: a stand-in for the gateway, the broker, and the clients. Each
frame says when it was sent, on the clock that all of them share, so a client knows how long it was under way.
The same clients ask the same stand-in directly and through the broker, in turns, so that what else the machine
does weighs on both.
"""

from __future__ import annotations

import argparse
import json
import re
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

import trio

from bench.processes import cpu_seconds, line, spawn
from gastown import logs
from gastown.broker.grants import AgentIdentity, Gateway
from gastown.broker.listener import open_broker, upstream_client
from gastown.contract.secret import Secret

AIM_MS = 5.0
PATH = "/api/openrouter/chat/completions"
ROLES = ("gateway", "broker")
SENT = re.compile(rb'"sent": (\d+)[,}]')
END = b"0\r\n\r\n"


# The stand-in for the gateway.


def serve_gateway() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=answer, args=(connection,), daemon=True).start()


def answer(connection: socket.socket) -> None:
    """Answer what comes on one connection: frames at a pace, or a block as fast as it is taken."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connection, connection.makefile("rb") as incoming:
        while incoming.readline():
            length = 0
            while (line := incoming.readline().strip().lower()) != b"":
                name, _, value = line.partition(b":")
                length = int(value) if name == b"content-length" else length
            asked = json.loads(incoming.read(length))
            connection.sendall(
                b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
            )
            for number in range(asked["frames"]):
                if number and asked["pause"]:
                    time.sleep(asked["pause"])
                connection.sendall(chunk(frame(asked["size"])))
            connection.sendall(END)


def frame(size: int) -> bytes:
    return f'data: {{"sent": {time.monotonic_ns()}, "content": "{"x" * size}"}}\n\n'.encode()


def chunk(content: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(content), content)


# The broker, without the rest of the container.


@dataclass(frozen=True)
class Upstreams:
    gateway_url: str
    own_gateway_url: None = None
    worker_url: None = None
    worker_token: None = None

    async def renew_worker_token(self, _: Secret | None) -> bool:
        return False


class Access:
    def gateway(self) -> Gateway:
        return Gateway(Secret("gateway-token"), "org-1")

    def variables(self) -> Mapping[str, Secret]:
        return {}


def serve_broker(gateway_url: str) -> None:
    async def run() -> None:
        async with upstream_client() as client, open_broker(client, Upstreams(gateway_url)) as broker:
            grant = broker.grants.admit(AgentIdentity("a", "r", "oak", "polecat"), Access())
            print(json.dumps({"url": broker.url, "bearer": grant.bearer.reveal()}), flush=True)
            await trio.sleep_forever()

    logs.configure(tuple, sys.stderr)
    trio.run(run)


# The clients.


@dataclass
class Seen:
    """What one client saw: milliseconds to the first byte of each answer and of each frame on its way."""

    first_ms: list[float] = field(default_factory=list)
    frame_ms: list[float] = field(default_factory=list)
    bytes: int = 0


class Client:
    """A connection that is kept, as kilo keeps its own."""

    def __init__(self, port: int, bearer: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._bearer = bearer

    def ask(self, body: bytes, seen: Seen) -> None:
        head = (
            f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {self._bearer}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        began = time.monotonic_ns()
        self._socket.sendall(head.encode() + body)
        tail, begun = b"", False
        while not tail.endswith(END):
            data = self._socket.recv(1 << 18)
            now = time.monotonic_ns()
            assert data, "the connection was cut"
            seen.bytes += len(data)
            text = tail + data
            last = 0
            for found in SENT.finditer(text):
                if not begun:
                    begun = True
                    seen.first_ms.append((now - began) / 1e6)
                seen.frame_ms.append((now - int(found[1])) / 1e6)
                last = found.end()
            tail = text[max(last, len(text) - 64) :]


def together(
    clients: Sequence[Client], work: Mapping[str, object], times: int, spread: float = 0
) -> tuple[Seen, float]:
    """All of them side by side, each `times` times; what they saw, and the seconds that it took.

    They begin over `spread` seconds: agents do not ask in the same millisecond.
    """
    body, seen = json.dumps(work).encode(), []
    threads = []
    for number, client in enumerate(clients):
        mine = Seen()
        seen.append(mine)

        def run(client: Client = client, mine: Seen = mine, wait: float = spread * number / len(clients)) -> None:
            time.sleep(wait)
            for _ in range(times):
                client.ask(body, mine)

        threads.append(threading.Thread(target=run))
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.monotonic() - began
    whole = Seen(
        [ms for one in seen for ms in one.first_ms],
        [ms for one in seen for ms in one.frame_ms],
        sum(one.bytes for one in seen),
    )
    return whole, seconds


# The measurement.


@dataclass
class Figures:
    """Of one way to the gateway. Times are milliseconds."""

    first_median: float
    first_p99: float
    frame_median: float
    frame_p99: float
    megabytes_per_second: float


def of_way(paced: list[Seen], rates: list[float]) -> Figures:
    first = [ms for seen in paced for ms in seen.first_ms]
    frames = [ms for seen in paced for ms in seen.frame_ms]
    return Figures(
        statistics.median(first), percentile(first), statistics.median(frames), percentile(frames), max(rates)
    )


def percentile(values: list[float], share: float = 0.99) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def measure(options: argparse.Namespace, streams: int, ways: Mapping[str, tuple[int, str]]) -> dict[str, Figures]:
    clients = {way: [Client(port, bearer) for _ in range(streams)] for way, (port, bearer) in ways.items()}
    history = "x" * (options.body_kb * 1024)
    paced = {"frames": options.frames, "pause": options.pause_ms / 1000, "size": 200, "history": history}
    size = 4096
    large = {"frames": options.mb * (1 << 20) // size // streams, "pause": 0, "size": size, "history": history}
    seen: dict[str, list[Seen]] = {way: [] for way in ways}
    rates: dict[str, list[float]] = {way: [] for way in ways}
    rounds, spread = 4, options.frames * options.pause_ms / 1000
    times = max(2, options.requests // rounds // streams)
    for number in range(rounds + 1):
        for way in ways:
            one, _ = together(clients[way], paced, times, spread)
            if number:  # the first round is to get warm
                seen[way].append(one)
    for _ in range(3):
        for way in ways:
            one, seconds = together(clients[way], large, 1)
            rates[way].append(one.bytes / seconds / (1 << 20))
    return {way: of_way(seen[way], rates[way]) for way in ways}


def row(streams: int, found: Mapping[str, Figures]) -> str:
    direct, broker = asdict(found["direct"]), asdict(found["broker"])

    def cell(name: str) -> str:
        before, after = direct[name], broker[name]
        return f"{before:.2f} → {after:.2f} ms (+{after - before:.2f}, x{after / before:.1f})"

    cells = map(cell, ("first_median", "first_p99", "frame_median", "frame_p99"))
    rates = direct["megabytes_per_second"], broker["megabytes_per_second"]
    through = f"{rates[0]:,.0f} → {rates[1]:,.0f} MB/s (x{rates[1] / rates[0]:.2f})"
    return f"| {' | '.join((str(streams), *cells, through))} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--role", choices=ROLES, help=argparse.SUPPRESS)
    parser.add_argument("--gateway", help=argparse.SUPPRESS)
    parser.add_argument("--streams", type=int, nargs="*", default=[1, 20], help="answers at a time; a row each")
    parser.add_argument("--requests", type=int, default=100, help="answers of a row and a way")
    parser.add_argument("--frames", type=int, default=20, help="frames of an answer")
    parser.add_argument("--pause-ms", type=float, default=10.0, help="between two frames")
    parser.add_argument("--body-kb", type=int, default=64, help="size of a request, which is a conversation")
    parser.add_argument("--mb", type=int, default=64, help="size of the large answers of a row")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    options = parser.parse_args()
    if options.role == "gateway":
        serve_gateway()
    elif options.role == "broker":
        serve_broker(options.gateway)
    else:
        bench(options)


def bench(options: argparse.Namespace) -> None:
    rows: list[dict[str, object]] = []
    with ExitStack() as stack:
        log = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gastown-bench-"))) / "log"
        gateway = int(line(spawn(stack, "bench.broker", "gateway", log=log)))
        broker = spawn(stack, "bench.broker", "broker", "--gateway", f"http://127.0.0.1:{gateway}", log=log)
        told = json.loads(line(broker))
        ways = {"direct": (gateway, "any"), "broker": (int(told["url"].rpartition(":")[2]), told["bearer"])}
        print(f"direct → through the broker; aim: {AIM_MS:g} ms more at the median of the first byte\n")
        print("| streams | first byte, median | p99 | a frame, median | p99 | large answers |")
        print(f"|{'---|' * 6}")
        for streams in options.streams:
            found = measure(options, streams, ways)
            print(row(streams, found), flush=True)
            added = found["broker"].first_median - found["direct"].first_median
            rows.append(
                {"streams": streams, "added_ms": round(added, 3)}
                | {way: asdict(figures) for way, figures in found.items()}
            )
        print(f"\nCPU of the broker: {cpu_seconds(broker.pid):.1f} s")
    if options.json is not None:
        options.json.write_text(json.dumps({"aim_ms": AIM_MS, "rows": rows}, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
