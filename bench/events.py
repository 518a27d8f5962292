"""`make bench-events`: how many events a second go from a flooding kilo to websocket clients and to the worker.

Everything is a process of its own on loopback: a stand-in for kilo that writes events as fast as they are
taken, the container's control server, a stand-in for the worker, and the clients. What a client has not been
given is counted from the gap frames that it got: an event in neither is dropped silently, and ends the benchmark.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import selectors
import socket
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.processes import cpu_seconds, line, resident_mb, spawn
from bench.stand_ins import (
    AGENT,
    events_at,
    open_town_of_stand_ins,
    post,
    spawn_kilo,
    start_request,
    wait_for_worker,
)

OLD_SYSTEM = "99,700/s"
AIM = 20_000


# The clients.


class Received:
    """What one client was given, and told to have lost."""

    def __init__(self) -> None:
        self.got = self.lost = 0
        self.ended = False
        self._rest = b""

    def take(self, data: bytes) -> None:
        """Count what is in the whole frames of what has come."""
        data = self._rest + data
        end = end_of_frames(data)
        whole, self._rest = data[:end], data[end:]
        self.got += whole.count(DELTA)
        self.lost += sum(int(last) - int(first) + 1 for first, last in GAP.findall(whole))
        self.ended = self.ended or END in whole


DELTA, END = b'"event":"message.part.delta"', b'"event":"flood.end"'
GAP = re.compile(rb'"event":"stream.gap","data":{"from":(\d+),"to":(\d+)')


def end_of_frames(data: bytes) -> int:
    """Where the last whole frame in `data` ends: websocket frames as a server sends them, without a mask."""
    at = 0
    while len(data) >= at + 2:
        size, head = data[at + 1], 2
        if size >= 126:
            head = 4 if size == 126 else 10
            if len(data) < at + head:
                break
            size = int.from_bytes(data[at + 2 : at + head])
        if len(data) < at + head + size:
            break
        at += head + size
    return at


def connect(port: int, last: int) -> tuple[socket.socket, Received]:
    """A client of all events after `last`."""
    connection, received = socket.create_connection(("127.0.0.1", port)), Received()
    key = base64.b64encode(os.urandom(16)).decode()
    connection.sendall(
        f"GET /agents/{AGENT}/stream?after={last} HTTP/1.1\r\nHost: localhost\r\n"
        f"Upgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
    )
    head, _, first = connection.recv(4096).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101"), head
    received.take(first)
    return connection, received


def run_clients(port: int, number: int) -> None:
    selector = selectors.DefaultSelector()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/agents/{AGENT}/events", timeout=60) as answer:
        last = json.load(answer)["events"][-1]["id"]
    clients = []
    for _ in range(number):
        connection, received = connect(port, last)
        selector.register(connection, selectors.EVENT_READ, received)
        clients.append(received)
    print("ready", flush=True)
    began = None
    left = number
    while left:
        for key, _ in selector.select():
            client: Received = key.data
            data = key.fileobj.recv(1 << 20)
            assert data, "the connection was cut"
            client.take(data)
            if began is None and client.got:
                began = time.monotonic()
            if client.ended:
                selector.unregister(key.fileobj)
                left -= 1
    seconds = time.monotonic() - (began or 0)
    rows = [(client.got, client.lost) for client in clients]
    print(json.dumps({"seconds": seconds, "clients": rows}), flush=True)


# The measurement.


def measure(options: argparse.Namespace, number: int) -> dict[str, float]:
    """One town, `number` clients, one flood: rates in events a second, CPU in seconds an event."""
    with ExitStack() as stack:
        there = open_town_of_stand_ins(stack)
        town, kilo, worker = there.process, there.kilo, there.worker
        post(f"{there.url}/agents/start", start_request())
        # To get warm: what one flood leaves is there when the next one begins.
        post(f"{kilo}/flood/{AGENT}", options.events)
        wait_for_worker(worker, 1.0)
        row: dict[str, float] = {"clients": number, "before_mb": resident_mb(town.pid)}
        clients = None
        if number:
            port = there.url.rpartition(":")[2]
            clients = spawn(
                stack, "bench.events", "clients", "--port", port, "--number", str(number), log=there.log
            )
        if clients is not None:
            assert line(clients) == "ready", there.log.read_text()
        earlier, worked = events_at(worker), cpu_seconds(town.pid)
        began = time.monotonic()
        post(f"{kilo}/flood/{AGENT}", options.events)
        if clients is not None:
            row |= received(json.loads(line(clients)), options.events)
            row["cpu"] = (cpu_seconds(town.pid) - worked) / options.events
        row["after_mb"] = resident_mb(town.pid)
        last = wait_for_worker(worker, 1.0)
        assert town.stdin is not None
        town.stdin.write("figures\n")
        town.stdin.flush()
        figures = json.loads(line(town))
        row["worker_per_second"] = (events_at(worker) - earlier) / (last - began)
        return row | {"merged": figures["merged"], "dropped": figures["dropped"]}


def received(found: dict[str, Any], events: int) -> dict[str, float]:
    """The clients' part of a row: how many events a second each was given, and how many it was told to have lost.

    SystemExit when one was given less than all and not told so.
    """
    clients = found["clients"]
    for got, told in clients:
        if got + told != events:
            raise SystemExit(f"events: of {events:,} a client was given {got:,}, and told that {told:,} are lost")
    got, told = (sum(each) / len(clients) for each in zip(*clients, strict=True))
    return {"each_per_second": got / found["seconds"], "told_lost": told}


def written(row: dict[str, float]) -> str:
    """A row of the table."""
    if row["clients"]:
        seen = f"{row['each_per_second']:,.0f}/s | {row['cpu'] * 1e6:.0f} µs | {row['told_lost']:,.0f}"
    else:
        seen = " | | "
    outbox = f"{row['merged']:,} merged, {row['dropped']:,} dropped"
    megabytes = f"{row['before_mb']:.0f} → {row['after_mb']:.0f} MB"
    return f"| {row['clients']} | {seen} | {row['worker_per_second']:,.0f}/s | {outbox} | {megabytes} |"


def directly(events: int) -> float:
    """Events a second that a process reads from the same flood and parses, and does nothing else with them."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gastown-bench-")))
        kilo = spawn_kilo(stack, folder / "log")
        port = int(kilo.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            login = base64.b64encode(f"kilo:{AGENT}".encode()).decode()
            head = f"GET /global/event HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {login}\r\n\r\n"
            connection.sendall(head.encode())
            rest, began, last, seen = connection.recv(1 << 20), 0.0, b"", 0
            post(f"{kilo}/flood/{AGENT}", events)
            while b"flood.end" not in last:
                *whole, rest = (rest + connection.recv(1 << 20)).split(b"\n\n")
                began = began or time.monotonic()
                for last in whole:
                    json.loads(last[last.index(b"{") :])
                    seen += 1
            return seen / (time.monotonic() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--role", choices=["clients"], help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--number", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--events", type=int, default=200_000, help="events of a flood")
    parser.add_argument("--clients", type=int, nargs="*", default=[0, 1, 50], help="a row of the table each")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    options = parser.parse_args()
    if options.role == "clients":
        run_clients(options.port, options.number)
        return
    print(f"{options.events:,} events; the system before this: {OLD_SYSTEM} to one client; aim {AIM:,}/s\n")
    print("| clients | each gets | CPU/event | told as lost | worker gets | outbox | memory |")
    print("|---|---|---|---|---|---|---|")
    rows = []
    for number in options.clients:
        rows.append(measure(options, number))
        print(written(rows[-1]), flush=True)
    direct = directly(options.events)
    print(f"\nread from the same flood and parsed, nothing else: {direct:,.0f}/s")
    if options.json:
        found = {"events": options.events, "direct_per_second": direct, "rows": rows}
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
