"""A town in the built root, as compose.yaml or the Pod template run it: its mayor answers, and it drains."""

from __future__ import annotations

import fcntl
import json
import shlex
import socket
import struct
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tools.image.build import Layer, mounted
from tools.image.container import Container, Process, running
from tools.image.deployment import of_compose, of_pod
from tools.image.dockerfile import Stage

__all__ = ["Trial", "try_town"]

TOWN = "http://127.0.0.1:8080"
CONTROL_TOKEN = "a-token-of-this-trial-and-of-nothing-else"
FIRST_WORDS = Path(__file__).parents[2] / "deploy" / "first-words.sh"


class Trial(dict[str, Any]):
    """What was seen; every key is a line of the report."""


def try_town(image: Stage, layer: Layer, scratch: Path, *, in_a_pod: bool) -> Trial:
    """Start a hall and a town, let the mayor answer, leave an orphan, drain. SystemExit says what is wrong."""
    seen, volumes = Trial(), scratch / "volumes"
    volumes.mkdir(parents=True)
    loopback_up()
    with container_of(layer, scratch / "hall") as hall_root, container_of(layer, scratch / "town") as town_root:
        hall = of_compose("hall", image, {}, volumes)
        environment = layer.environment | hall.environment
        with running(hall_root, hall.command, environment, hall.rights, scratch / "hall.log"):
            given = hall_variables(volumes / "hall" / "town" / "container.env")
            own = {"GASTOWN_CONTROL_TOKEN": CONTROL_TOKEN}
            plan = of_pod(image, given | own, volumes) if in_a_pod else of_compose("town", image, own, volumes)
            environment, log = layer.environment | plan.environment, scratch / "town.log"
            began = time.monotonic()
            with running(town_root, plan.command, environment, plan.rights, log) as town:
                try:
                    watch(town, began, seen)
                    if plan.agent_drain is not None:
                        town.run(*plan.agent_drain)
                    drain(town, seen)
                except BaseException:
                    sys.stderr.write(log.read_text()[-6000:])
                    raise
    lines = [json.loads(line) for line in log.read_text().splitlines() if line[:1] == "{"]
    seen["drained in time"] = any(line.get("event") == "container.drained" and line["in_time"] for line in lines)
    seen["told by"] = next((line["why"] for line in lines if line.get("event") == "container.leaving"), None)
    return seen


def watch(town: Container, began: float, seen: Trial) -> None:
    """From the start of the process to the mayor's answer."""
    for probe in ("/livez", "/readyz"):
        seen[probe] = until(probe, began)
    until("/health", began, "mayorReadyAt")
    seen["mayor ready"] = since(began)
    seen["mayor's answer"] = town.run("/bin/sh", "-c", FIRST_WORDS.read_text("utf-8")).strip()
    seen["answered"] = since(began)
    alive = town.processes()
    seen["processes"] = [f"{one.pid} uid {one.uid} {one.pss / 1e6:.0f} MB {one.command[:60]}" for one in alive]
    servers = [one for one in alive if "kilo serve" in one.command]
    if not servers or any(one.uid == 0 for one in servers):
        raise SystemExit("image-root: a kilo server runs as root, or there is none")
    town.run("/bin/sh", "-c", "(sleep 0.1 &) ; exit 0")
    seen["zombies with an orphan gone"] = zombies_after(town, 1.0)


def drain(town: Container, seen: Trial) -> None:
    began = time.monotonic()
    town.stop()
    while town.process.poll() is None:
        if time.monotonic() - began > 60:
            raise SystemExit("image-root: the town did not end within 60 s of its SIGTERM")
        time.sleep(0.02)
    seen["exit code"], seen["drain"] = town.process.returncode, since(began)


def zombies_after(town: Container, seconds: float) -> list[Process]:
    time.sleep(seconds)
    return [one for one in town.processes() if one.state == "Z"]


@contextmanager
def container_of(image: Layer, scratch: Path) -> Iterator[Path]:
    """A root on the image's layers that can be written without changing them."""
    upper = scratch / "upper"
    upper.mkdir(parents=True)
    with mounted(Layer("container", upper, [image.upper, *image.lower]), scratch) as root:
        yield root


def loopback_up() -> None:
    """A new network namespace begins without even a loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        up_and_running = 0x1 | 0x40
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sH22x", b"lo", up_and_running))  # SIOCSIFFLAGS


def hall_variables(path: Path) -> dict[str, str]:
    """What the hall wrote for its town to read, once it is there."""
    for _ in range(500):
        if path.exists() and (words := shlex.split(path.read_text())):
            return dict(word.split("=", 1) for word in words)
        time.sleep(0.05)
    raise SystemExit("image-root: the hall wrote no container.env")


def until(path: str, began: float, key: str | None = None) -> str:
    """Ask until the answer is good, and has `key`; when that was."""
    problem = "nothing listens"
    while time.monotonic() - began < 60:
        try:
            answer = call(path)
            if key is None or key in answer:
                return since(began)
        except urllib.error.HTTPError as error:
            problem = f"{error.code} {error.read()[:200]!r}"
        except (OSError, ValueError) as error:
            problem = str(error)
        time.sleep(0.02)
    raise SystemExit(f"image-root: {path} was not good within a minute: {problem}")


def call(path: str) -> dict[str, Any]:
    request = urllib.request.Request(TOWN + path, headers={"Authorization": f"Bearer {CONTROL_TOKEN}"})
    with urllib.request.urlopen(request, timeout=10) as response:
        found = json.loads(response.read())
        return found if isinstance(found, dict) else {}


def since(began: float) -> str:
    return f"{time.monotonic() - began:.1f} s"
