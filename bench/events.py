"""`make bench-events`: how many events a second go from a flooding kilo to websocket clients and to the worker.

Everything is a process of its own on loopback: a stand-in for kilo that writes events as fast as they are
taken, the container's control server, a stand-in for the worker, and the clients. What a client has not been
given is counted from the gap frames that it got: what is in neither would be dropped silently.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import selectors
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import httpx2
import trio

from bench.processes import cpu_seconds, line, resident_mb, spawn
from gastown import logs
from gastown.assembly import Parts, open_town
from gastown.contract.secret import Secret
from gastown.control.app import create_app
from gastown.control.server import listen_on, serve_app
from gastown.kilo.client import Endpoint
from gastown.settings import Settings

OLD_SYSTEM = "99,700/s"
AIM = 20_000
SESSION = "ses_flood"
ROLES = ("kilo", "worker", "town", "clients")


# The stand-ins.


class Quiet(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("content-length", 0)))

    def answer(self, value: object, **headers: str) -> None:
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(content)))
        for name, text in headers.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        self.wfile.write(content)


class Kilo(Quiet):
    """As much of `kilo serve` as a start needs, and a flood of deltas for who asks for one."""

    floods: ClassVar[list[int]] = []
    asked = threading.Condition()

    def do_POST(self) -> None:
        content = self.body()
        if self.path.startswith("/flood"):
            with Kilo.asked:
                Kilo.floods.append(int(content))
                Kilo.asked.notify()
            self.answer(True)
        else:
            self.answer({"id": SESSION, "directory": "/"})

    def do_GET(self) -> None:
        if self.path.startswith("/global/event"):
            self.stream()
        elif self.path.startswith("/experimental"):
            self.answer([])
        else:
            self.answer({} if "status" in self.path else [])

    def stream(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        self.wfile.write(frame("server.connected"))
        self.wfile.flush()
        delta = frame("message.part.delta", messageID="msg_1", partID="prt_1", field="text", delta="word ")
        block = delta * 100
        while True:
            with Kilo.asked:
                if not Kilo.floods and not Kilo.asked.wait(10):
                    self.wfile.write(frame("server.heartbeat"))
                    self.wfile.flush()
                    continue
                number = Kilo.floods.pop()
            for _ in range(number // 100):
                self.connection.sendall(block)
            self.connection.sendall(frame("flood.end"))


def frame(kind: str, **properties: str) -> bytes:
    """An event as kilo writes it: a chunk of its own."""
    payload = {"id": "evt_1", "type": kind, "properties": {"sessionID": SESSION, **properties}}
    content = f"data: {json.dumps({'directory': '/', 'project': 'global', 'payload': payload})}\n\n".encode()
    return b"%x\r\n%s\r\n" % (len(content), content)


class Worker(Quiet):
    """Takes events, also many in a call, and says how many."""

    events = 0

    def do_POST(self) -> None:
        content = self.body()
        Worker.events += content.count(b'"event_type"')
        self.answer({"success": True}, x_gastown_accepts="agent-events-batch")

    def do_GET(self) -> None:
        self.answer(Worker.events if self.path == "/events" else {"success": True, "data": []})


def serve_stand_in(handler: type[Quiet]) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()


# The container, with a kilo that somebody else runs.


def serve_town(kilo_url: str, worker_url: str, folder: str) -> None:
    class Elsewhere:
        pid, exit, stderr_tail, leftovers = os.getpid(), None, (), ()
        endpoint = Endpoint(kilo_url, Secret("no password is asked for"))

        def __init__(self) -> None:
            self.ended = trio.Event()

    @asynccontextmanager
    async def launch(_):
        yield Elsewhere()

    async def run() -> None:
        logs.configure(tuple, sys.stderr)
        settings = Settings(
            gastown_api_url=worker_url,
            gastown_town_id="oak",
            gastown_workspace_root=f"{folder}/rigs",
            gastown_agent_home_root=f"{folder}/homes",
            gastown_container_token="h." + base64.urlsafe_b64encode(b'{"exp": 4000000000}').decode() + ".s",
            gastown_mayor_tools=(),
            base_env={"PATH": os.environ["PATH"], "HOME": folder},
        )
        async with httpx2.AsyncClient(trust_env=False) as one, httpx2.AsyncClient(trust_env=False) as two:
            parts = Parts(settings, "/bin/true", launch, one, two, lambda: datetime.now(UTC), trio.current_time())
            async with open_town(parts) as opened:
                listener = listen_on("127.0.0.1", 0)
                print(listener.getsockname()[1], flush=True)
                async with trio.open_nursery() as nursery:
                    await nursery.start(serve_app, create_app(opened.town), listener, trio.Event())
                    async for _ in trio.wrap_file(sys.stdin):
                        print(json.dumps(vars(opened.town.services.outbox.figures())), flush=True)

    trio.run(run)


# The clients.


class Client:
    def __init__(self, port: int, last: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            f"GET /agents/flood/stream?after={last} HTTP/1.1\r\nHost: localhost\r\n"
            f"Upgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        self.got = self.lost = self.gaps = 0
        self.tail = b""
        self.ended = False

    def read(self) -> None:
        data = self.tail + self.socket.recv(1 << 20)
        # Whole frames are not cut out: what is counted may only lie across the end of what came.
        keep = min(len(data), 400)
        fresh, seen = data, self.tail
        self.got += fresh.count(DELTA) - seen.count(DELTA)
        for first, last in set(GAP.findall(fresh)) - set(GAP.findall(seen)):
            self.gaps += 1
            self.lost += int(last) - int(first) + 1
        self.ended = self.ended or END in fresh
        self.tail = data[-keep:]


DELTA, END = b'"event":"message.part.delta"', b'"event":"flood.end"'
GAP = re.compile(rb'"event":"stream.gap","data":{"from":(\d+),"to":(\d+)')


def run_clients(port: int, number: int) -> None:
    selector = selectors.DefaultSelector()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/agents/flood/events", timeout=60) as answer:
        last = json.load(answer)["events"][-1]["id"]
    clients = [Client(port, last) for _ in range(number)]
    for client in clients:
        assert client.socket.recv(4096).startswith(b"HTTP/1.1 101")
        selector.register(client.socket, selectors.EVENT_READ, client)
    print("ready", flush=True)
    began = None
    left = number
    while left:
        for key, _ in selector.select():
            client: Client = key.data
            client.read()
            if began is None and client.got:
                began = time.monotonic()
            if client.ended:
                selector.unregister(client.socket)
                left -= 1
    seconds = time.monotonic() - (began or 0)
    rows = [(client.got, client.lost, client.gaps) for client in clients]
    print(json.dumps({"seconds": seconds, "clients": rows}), flush=True)


# The measurement.

PROGRAM = "bench.events"


@dataclass(frozen=True)
class TownOfStandIns:
    """A control process of its own, between a stand-in for kilo and one for the worker, each in its process."""

    process: subprocess.Popen[str]
    url: str
    kilo: str
    worker: str
    log: Path


def open_town_of_stand_ins(stack: ExitStack) -> TownOfStandIns:
    """Open until `stack` closes."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gastown-bench-")))
    log = folder / "log"
    kilo = f"http://127.0.0.1:{line(spawn(stack, PROGRAM, 'kilo', log=log))}"
    worker = f"http://127.0.0.1:{line(spawn(stack, PROGRAM, 'worker', log=log))}"
    town = spawn(stack, PROGRAM, "town", "--kilo", kilo, "--worker", worker, "--folder", str(folder), log=log)
    return TownOfStandIns(town, f"http://127.0.0.1:{line(town)}", kilo, worker, log)


def post(url: str, body: object) -> object:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"content-type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


def measure(options: argparse.Namespace, number: int) -> dict[str, float]:
    """One town, `number` clients, one flood: rates in events a second, CPU in seconds an event."""
    with ExitStack() as stack:
        there = open_town_of_stand_ins(stack)
        town, kilo, worker = there.process, there.kilo, there.worker
        post(f"{there.url}/agents/start", start_request())
        post(f"{kilo}/flood", options.events)  # warm: what one flood leaves is there when the next one begins
        wait_for_worker(worker, 1.0)
        row: dict[str, float] = {"clients": number, "before_mb": resident_mb(town.pid)}
        clients = None
        if number:
            port = there.url.rpartition(":")[2]
            clients = spawn(stack, PROGRAM, "clients", "--port", port, "--number", str(number), log=there.log)
        if clients is not None:
            assert line(clients) == "ready", there.log.read_text()
        earlier, worked = events_at(worker), cpu_seconds(town.pid)
        began = time.monotonic()
        post(f"{kilo}/flood", options.events)
        if clients is not None:
            found = json.loads(line(clients))
            row["each_per_second"] = options.events / found["seconds"]
            row["told_lost"] = sum(told for _, told, _ in found["clients"]) / number
            row["silent"] = sum(max(0, options.events - got - told) for got, told, _ in found["clients"])
            row["cpu"] = (cpu_seconds(town.pid) - worked) / options.events
        row["after_mb"] = resident_mb(town.pid)
        last = wait_for_worker(worker, 1.0)
        assert town.stdin is not None
        town.stdin.write("figures\n")
        town.stdin.flush()
        figures = json.loads(line(town))
        row["worker_per_second"] = (events_at(worker) - earlier) / (last - began)
        return row | {"merged": figures["merged"], "dropped": figures["dropped"]}


def written(row: dict[str, float]) -> str:
    """A row of the table."""
    if row["clients"]:
        lost = f"{row['told_lost']:,.0f} | {row['silent']:.0f}"
        seen = f"{row['each_per_second']:,.0f}/s | {row['cpu'] * 1e6:.0f} µs | {lost}"
    else:
        seen = " | | | "
    outbox = f"{row['merged']:,} merged, {row['dropped']:,} dropped"
    megabytes = f"{row['before_mb']:.0f} → {row['after_mb']:.0f} MB"
    return f"| {row['clients']} | {seen} | {row['worker_per_second']:,.0f}/s | {outbox} | {megabytes} |"


def directly(events: int) -> float:
    """Events a second that a process reads from the same flood and parses, and does nothing else with them."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gastown-bench-")))
        port = int(line(spawn(stack, PROGRAM, "kilo", log=folder / "log")))
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            connection.sendall(b"GET /global/event HTTP/1.1\r\nHost: x\r\n\r\n")
            rest, began, last, seen = connection.recv(1 << 20), 0.0, b"", 0
            post(f"http://127.0.0.1:{port}/flood", events)
            while b"flood.end" not in last:
                *whole, rest = (rest + connection.recv(1 << 20)).split(b"\n\n")
                began = began or time.monotonic()
                for last in whole:
                    json.loads(last[last.index(b"{") :])
                    seen += 1
            return seen / (time.monotonic() - began)


def start_request() -> dict[str, object]:
    return {
        "agentId": "flood", "rigId": "rig", "townId": "oak", "role": "triage", "name": "flood",
        "identity": "flood", "prompt": "", "model": "test/m", "gitUrl": "", "branch": "", "defaultBranch": "",
        "envVars": {"KILOCODE_TOKEN": "t"},
    }  # fmt: skip


def events_at(worker: str) -> int:
    with urllib.request.urlopen(f"{worker}/events", timeout=60) as answer:
        return int(json.load(answer))


def wait_for_worker(worker: str, quiet: float) -> float:
    """Until no event has come for `quiet` seconds; returns when the last one came."""
    seen, at = -1, time.monotonic()
    while time.monotonic() - at < quiet:
        time.sleep(0.05)
        if (now := events_at(worker)) != seen:
            seen, at = now, time.monotonic()
    return at


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--role", choices=ROLES, help=argparse.SUPPRESS)
    parser.add_argument("--kilo", help=argparse.SUPPRESS)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--number", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--events", type=int, default=200_000, help="events of a flood")
    parser.add_argument("--clients", type=int, nargs="*", default=[0, 1, 50], help="a row of the table each")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    options = parser.parse_args()
    match options.role:
        case "kilo":
            serve_stand_in(Kilo)
        case "worker":
            serve_stand_in(Worker)
        case "town":
            serve_town(options.kilo, options.worker, options.folder)
        case "clients":
            run_clients(options.port, options.number)
        case _:
            print(
                f"{options.events:,} events; the system before this: {OLD_SYSTEM} to one client; aim {AIM:,}/s\n"
            )
            print("| clients | each gets | CPU/event | told as lost | dropped | worker gets | outbox | memory |")
            print("|---|---|---|---|---|---|---|---|")
            rows = []
            for number in options.clients:
                rows.append(measure(options, number))
                print(written(rows[-1]), flush=True)
            direct = directly(options.events)
            print(f"\nread from the same flood and parsed, nothing else: {direct:,.0f}/s")
            if options.json:
                options.json.write_text(json.dumps({"direct_per_second": direct, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
