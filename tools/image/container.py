"""A container without an engine: the built root, its own process ids, and no more rights than it is given."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tools.image.build import PATH, entered

__all__ = ["Container", "Folder", "Process", "Rights", "running"]


@dataclass(frozen=True)
class Folder:
    """A folder of the machine that stands in a container's root."""

    where: str
    source: Path
    read_only: bool = False
    mode: int = 0o755


@dataclass(frozen=True)
class Rights:
    """What a container may: its capabilities, whether its root can be written, and which folders are its own."""

    capabilities: Sequence[str]
    new_privileges: bool
    read_only: bool
    folders: Sequence[Folder]


@dataclass(frozen=True)
class Process:
    """A process of a container, by its id inside."""

    pid: int
    state: str
    uid: int
    command: str
    pss: int


@dataclass
class Container:
    """A running container. `init` is the id, outside, of its process 1."""

    process: subprocess.Popen[bytes]
    init: int
    root: Path
    env: Mapping[str, str]

    def stop(self) -> None:
        """What an engine sends first."""
        os.kill(self.init, signal.SIGTERM)

    def run(self, *command: str) -> str:
        """The output of a command inside, as `exec` of an engine runs it: not as a child of process 1."""
        inside = ["nsenter", f"--target={self.init}", "--mount", "--pid", f"--root={self.root}", *command]
        done = subprocess.run(inside, check=False, capture_output=True, text=True, env=self.env, timeout=120)
        if done.returncode:
            raise SystemExit(f"image-root: {command[-1]}: exit code {done.returncode}: {done.stderr}")
        return done.stdout

    def processes(self) -> list[Process]:
        """All that live inside now, zombies included."""
        mine = Path(f"/proc/{self.init}/ns/pid").readlink()
        return [found for found in map(_process, _of_namespace(mine)) if found is not None]


def _of_namespace(namespace: Path) -> Iterator[Path]:
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and (entry / "ns" / "pid").readlink() == namespace:
                yield entry
        except OSError:
            continue


def _process(entry: Path) -> Process | None:
    try:
        lines = (entry / "status").read_text().splitlines()
        command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        rollup = (entry / "smaps_rollup").read_text().splitlines() if command else []
    except OSError:  # gone meanwhile
        return None
    status = dict(line.split(":", 1) for line in lines)
    pss = next((int(line.split()[1]) * 1024 for line in rollup if line.startswith("Pss:")), 0)
    return Process(
        int(status["NSpid"].split()[-1]), status["State"].split()[0], int(status["Uid"].split()[1]), command, pss
    )


@contextmanager
def running(
    root: Path, command: Sequence[str], env: Mapping[str, str], rights: Rights, log: Path
) -> Iterator[Container]:
    """Run `command` as process 1 of the root `root`; what still lives at the end of the block is killed."""
    given = {"PATH": PATH, "HOME": "/root", **env}
    with entered(root), log.open("wb") as output:
        for folder in rights.folders:
            mount(folder, root)
        if rights.read_only:
            subprocess.run(["mount", "-o", "remount,bind,ro", str(root)], check=True)
        spaces = ["--pid", "--fork", "--kill-child", f"--mount-proc={root}/proc"]
        least = ",".join(["-all", *(f"+{name.lower()}" for name in rights.capabilities)])
        inside = ["setpriv", f"--bounding-set={least}", f"--inh-caps={least}"]
        inside += [] if rights.new_privileges else ["--no-new-privs"]
        process = subprocess.Popen(
            # Nothing outlives this program, however it ends.
            ["setpriv", "--pdeathsig", "KILL", "unshare", *spaces, "chroot", str(root), *inside, *command],
            env=given,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        try:
            yield Container(process, _first_child(process), root, given)
        finally:
            process.kill()
            process.wait()
            if rights.read_only:
                subprocess.run(["mount", "-o", "remount,bind,rw", str(root)], check=True)


def mount(folder: Folder, root: Path) -> None:
    where = root / folder.where.lstrip("/")
    for made in (folder.source, where):
        made.mkdir(parents=True, exist_ok=True)
    folder.source.chmod(folder.mode)
    subprocess.run(["mount", "--bind", str(folder.source), str(where)], check=True)
    if folder.read_only:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(where)], check=True)


def _first_child(process: subprocess.Popen[bytes]) -> int:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while process.poll() is None:
        if found := children.read_text().split():
            return int(found[0])
    raise SystemExit(f"image-root: the container ended with code {process.returncode} before it began")
