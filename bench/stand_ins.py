"""A town of stand-ins: a control process of its own between a kilo and a worker that cost next to nothing.

Each is a process on loopback. The kilo writes events as fast as they are taken, for every agent that is started;
the worker counts what it gets.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
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

from bench.processes import line, spawn
from gastown import logs
from gastown.assembly import Parts, open_town
from gastown.contract.secret import Secret
from gastown.control.app import create_app
from gastown.control.server import listen_on, serve_app
from gastown.kilo.client import Endpoint
from gastown.settings import Settings

AGENT, SESSION = "flood", "ses_flood"
PROGRAM, ROLES = "bench.stand_ins", ("kilo", "worker", "town")


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
    """As much of `kilo serve` as the starts of many agents need, and floods of deltas.

    An agent's password is its id. `POST /flood/ID` with a number of events lets them go to that agent's stream.
    """

    floods: ClassVar[dict[str, int]] = {}
    asked = threading.Condition()

    def do_POST(self) -> None:
        content = self.body()
        if self.path.startswith("/flood/"):
            with Kilo.asked:
                Kilo.floods[self.path.removeprefix("/flood/")] = int(content)
                Kilo.asked.notify_all()
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
        agent = base64.b64decode(self.headers["authorization"].split()[1]).decode().partition(":")[2]
        delta = frame(
            "message.part.delta", sessionID=SESSION, messageID="msg_1", partID="prt_1", field="text", delta="word "
        )
        block = delta * 100
        while True:
            with Kilo.asked:
                flooded = Kilo.asked.wait_for(lambda: agent in Kilo.floods, 10)
                number = Kilo.floods.pop(agent, 0)
            if not flooded:
                self.connection.sendall(frame("server.heartbeat"))
                continue
            for _ in range(number // 100):
                self.connection.sendall(block)
            self.connection.sendall(delta * (number % 100) + frame("flood.end", sessionID=SESSION))


def frame(kind: str, **properties: str) -> bytes:
    """An event as kilo writes it: a chunk of its own."""
    payload = {"id": "evt_1", "type": kind, "properties": properties}
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


def serve_town(kilo_url: str, worker_url: str, folder: str) -> None:
    class Elsewhere:
        pid, exit, stderr_tail, leftovers = os.getpid(), None, (), ()

        def __init__(self, agent_id: str) -> None:
            self.endpoint = Endpoint(kilo_url, Secret(agent_id))
            self.ended = trio.Event()

    @asynccontextmanager
    async def launch(spec):
        yield Elsewhere(spec.env["GASTOWN_AGENT_ID"])

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


@dataclass(frozen=True)
class TownOfStandIns:
    """A control process of its own, between a stand-in for kilo and one for the worker, each in its process."""

    process: subprocess.Popen[str]
    url: str
    kilo: str
    worker: str
    log: Path


def spawn_kilo(stack: ExitStack, log: Path) -> str:
    """The URL of a kilo that runs until `stack` closes."""
    return f"http://127.0.0.1:{line(spawn(stack, PROGRAM, 'kilo', log=log))}"


def open_town_of_stand_ins(stack: ExitStack) -> TownOfStandIns:
    """Open until `stack` closes."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gastown-bench-")))
    log = folder / "log"
    kilo = spawn_kilo(stack, log)
    worker = f"http://127.0.0.1:{line(spawn(stack, PROGRAM, 'worker', log=log))}"
    town = spawn(stack, PROGRAM, "town", "--kilo", kilo, "--worker", worker, "--folder", str(folder), log=log)
    return TownOfStandIns(town, f"http://127.0.0.1:{line(town)}", kilo, worker, log)


def post(url: str, body: object) -> object:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"content-type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


def start_request(agent_id: str = AGENT) -> dict[str, object]:
    return {
        "agentId": agent_id, "rigId": f"rig-{agent_id}", "townId": "oak", "role": "triage", "name": agent_id,
        "identity": agent_id, "prompt": "", "model": "test/m", "gitUrl": "", "branch": "", "defaultBranch": "",
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
    parser.add_argument("--role", choices=ROLES, required=True)
    parser.add_argument("--kilo", help="the town's kilo")
    parser.add_argument("--worker", help="the town's worker")
    parser.add_argument("--folder", help="where the town keeps its files")
    options = parser.parse_args()
    match options.role:
        case "kilo":
            serve_stand_in(Kilo)
        case "worker":
            serve_stand_in(Worker)
        case "town":
            serve_town(options.kilo, options.worker, options.folder)


if __name__ == "__main__":
    main()
