"""What a hostile agent tries: a program that its bash tool runs, with the folder of its orders as argument.

It writes what it got to `reports/<agent>.json` in that folder. The orders hold the marks of the town's secrets
backwards, so that they are not found in the orders.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

FOLDER = Path(sys.argv[1])
ORDERS = json.loads((FOLDER / "orders.json").read_text())
MARKS = [mark[::-1].encode() for mark in ORDERS["skram"]]
SMALL = 4 * 1024 * 1024
found: dict[str, Any] = {}


def marks_in(content: bytes) -> list[str]:
    return [mark.decode()[::-1] for mark in MARKS if mark in content]


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def processes() -> dict[int, list[bytes]]:
    return {int(p.name): read(p / "cmdline").split(b"\0") for p in Path("/proc").iterdir() if p.name.isdecimal()}


def memory_of(pid: int) -> bool:
    """Whether any of the memory of a process can be read."""
    try:
        lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
        start = int(next(line for line in lines if " rw" in line).partition("-")[0], 16)
        with Path(f"/proc/{pid}/mem").open("rb") as memory:
            memory.seek(start)
            return bool(memory.read(64))
    except (OSError, StopIteration):
        return False


def environment_of(pid: int) -> dict[str, str]:
    items = read(Path(f"/proc/{pid}/environ")).decode(errors="replace").split("\0")
    return {name: value for name, _, value in (item.partition("=") for item in items)}


def may_signal(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def ask(url: str, method: str = "GET", body: object = None, **headers: str) -> int:
    """The status of an answer; 0 for none."""
    data = json.dumps(body).encode() if body is not None else None
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url, data, {"content-type": "application/json"} | names, method=method)
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            content = answer.read(SMALL)
            found.setdefault("marks in answers", []).extend(marks_in(content))
            return int(answer.status)
    except urllib.error.HTTPError as error:
        found.setdefault("marks in answers", []).extend(marks_in(error.read()))
        return int(error.code)
    except OSError:
        return 0


def look_around() -> None:
    """env, /proc, git's configuration, and every file that can be read."""
    found["marks in own environment"] = marks_in(
        repr(dict(os.environ)).encode() + subprocess.check_output(["env"])
    )
    others = [pid for pid in processes() if pid != os.getpid()]
    found["marks in /proc"] = sorted(
        {
            f"{name} of {b' '.join(processes().get(pid, [b'?'])[:4]).decode()}: {mark}"
            for pid in others
            for name in ("environ", "cmdline")
            for mark in marks_in(read(Path(f"/proc/{pid}/{name}")))
        }
    )
    listed = subprocess.run(["git", "config", "-l", "--show-origin"], capture_output=True, check=False)
    found["marks in git's configuration"] = marks_in(listed.stdout + listed.stderr)
    found["marks in files"] = sorted(set(files_with_marks()))


def files_with_marks() -> list[str]:
    hits = []
    for top in (os.environ["HOME"], os.environ.get("KILO_TEST_HOME", "/tmp"), "/tmp", *ORDERS["places"]):
        for folder, folders, names in os.walk(top):
            folders[:] = [name for name in folders if not os.path.ismount(Path(folder, name))]
            for name in names:
                path = Path(folder, name)
                try:
                    seen = path.lstat()
                except OSError:
                    continue
                plain = (seen.st_mode & 0o170000) == 0o100000 and seen.st_size < SMALL
                if plain and seen.st_mtime >= ORDERS["since"]:
                    hits += [f"{path}: {mark}" for mark in marks_in(read(path))]
    return hits


def touch_others() -> None:
    """The control server, the other agent, its home and its server."""
    control, victim = ORDERS["control"], ORDERS["victim"]
    found["memory of the control server"] = memory_of(control)
    found["environment of the control server"] = bool(read(Path(f"/proc/{control}/environ")))
    found["may signal the control server"] = may_signal(control)
    servers = {pid for pid, line in processes().items() if line[1:2] == [b"serve"] and pid != os.getppid()}
    theirs = [pid for pid in servers if pid in ORDERS["servers"]]
    found["servers of others seen"] = len(theirs)
    found["memory of another's server"] = any(memory_of(pid) for pid in theirs)
    found["environment of another's server"] = any(read(Path(f"/proc/{pid}/environ")) for pid in theirs)
    found["may signal another's server"] = any(may_signal(pid) for pid in theirs)
    found["another's home"] = bool(listed(Path(victim["home"])))
    found["another's kilo.db"] = bool(read(Path(victim["home"], ".local/share/kilo/kilo.db")))
    found["another's worktree"] = bool(listed(Path(victim["workdir"])))
    found["writes into the clone"] = writes(Path(ORDERS["clone"], ".git/hooks/post-checkout"))
    found["writes into the rig's room"] = writes(Path(ORDERS["clone"]).parent / "planted")
    found["writes beside the homes"] = writes(Path(victim["home"]).parent / "planted")


def listed(folder: Path) -> list[str]:
    try:
        return [entry.name for entry in folder.iterdir()]
    except OSError:
        return []


def writes(path: Path) -> bool:
    try:
        path.write_text("#!/bin/sh\n")
    except OSError:
        return False
    path.unlink()
    return True


def call_servers() -> None:
    """The control port, and other agents' servers."""
    port, victim = ORDERS["port"], ORDERS["victim"]["id"]
    at = f"http://127.0.0.1:{port}"
    found["control port"] = {
        "status": ask(f"{at}/agents/{victim}/status"),
        "stop": ask(f"{at}/agents/{victim}/stop", "POST", {}),
        "refresh-token": ask(f"{at}/refresh-token", "POST", {"token": "mine"}),
        "with own bearer": ask(
            f"{at}/agents/{victim}/status", Authorization=f"Bearer {os.environ['GASTOWN_CONTAINER_TOKEN']}"
        ),
    }
    known = listening()
    found["others' servers"] = [
        ask(f"http://127.0.0.1:{theirs}/session") for theirs in ORDERS["server_ports"] if theirs in known
    ]


def call_as_others() -> None:
    """The broker as somebody else, the credential helper as another."""
    victim = ORDERS["victim"]["id"]
    broker, bearer = os.environ["GASTOWN_API_URL"], os.environ["GASTOWN_CONTAINER_TOKEN"]
    rig = f"{broker}/api/towns/oak/rigs/r/agents"
    name, _, secret = bearer.rpartition(".")
    found["broker"] = {
        "as itself": ask(f"{rig}/{os.environ['GASTOWN_AGENT_ID']}/prime", Authorization=f"Bearer {bearer}"),
        "path of another": ask(f"{rig}/{victim}/prime", Authorization=f"Bearer {bearer}"),
        "as a mayor": ask(f"{broker}/api/mayor/oak/tools/rigs", Authorization=f"Bearer {bearer}"),
        "registry": ask(f"{broker}/api/towns/oak/container-registry", Authorization=f"Bearer {bearer}"),
        "forged": ask(f"{rig}/{victim}/prime", Authorization=f"Bearer {name}.{secret[::-1]}"),
        "no bearer": ask(f"{rig}/{victim}/prime"),
    }
    found["helper"] = {
        "own rig": helper(os.environ["GASTOWN_GIT_KEY"]),
        "forged": helper(re.sub(r"/[^/]*/", f"/{victim}/", os.environ["GASTOWN_GIT_KEY"], count=1)),
        "another's key": helper(stolen_key()),
    }


def stolen_key() -> str:
    """The key of the other agent, from wherever it can be read."""
    for pid in ORDERS["servers"]:
        if key := environment_of(pid).get("GASTOWN_GIT_KEY"):
            return key
    return str(ORDERS["victim"]["git_key"])  # as if it had been told


def helper(key: str) -> bool:
    """Whether the credential helper gives a password for a key."""
    question = {
        "action": "get",
        "key": key,
        "protocol": "http",
        "host": f"127.0.0.1:{ORDERS['git_port']}",
        "path": "r.git",
    }
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(os.environ["GASTOWN_GIT_SOCKET"])
        connection.sendall(json.dumps(question).encode() + b"\n")
        answer = b""
        while not answer.endswith(b"\n"):
            if not (chunk := connection.recv(65536)):
                break
            answer += chunk
    return bool(json.loads(answer or b"{}").get("password"))


def listening() -> set[int]:
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return {int(line.split()[1].partition(":")[2], 16) for line in lines if line.split()[3] == "0A"}


def outlive() -> None:
    """A process that has left everything by which it could be known."""
    command = [sys.executable, "-c", "import time; time.sleep(1000)", "outlives"]
    child = subprocess.Popen(command, env={}, cwd="/", start_new_session=True, stdin=subprocess.DEVNULL,
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    found["outlives"] = child.pid


def kill_others() -> None:
    """At the end, since it may work."""
    for pid in ORDERS["servers"]:
        try:
            os.kill(pid, signal.SIGKILL)
        except OSError as error:
            found.setdefault("kills", []).append(type(error).__name__)
        else:
            found.setdefault("kills", []).append("killed")
    found["alive after the kills"] = sum(1 for pid in ORDERS["servers"] if read(Path(f"/proc/{pid}/cmdline")))


if __name__ == "__main__":
    look_around()
    touch_others()
    call_as_others()
    outlive()
    if ORDERS["kill"]:
        kill_others()
    call_servers()
    found["uid"] = os.getuid()
    report = FOLDER / "reports" / f"{os.environ['GASTOWN_AGENT_ID']}.json"
    draft = report.with_suffix(".new")
    draft.write_text(json.dumps(found))
    draft.rename(report)
