"""The wheel as a person gets it: an empty environment, kilo on the path, and nothing of the repository."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from gastown import __version__
from gastown.kilo.binary import KILO_VERSION
from tests.kilo.test_real_up import first_answer
from tests.kilo.town import KILO, alive, descendants
from tests.package.build import REPOSITORY, build

pytestmark = pytest.mark.kilo

LEFT_OUT = ("PYTHON", "GASTOWN", "KILO", "VIRTUAL_ENV", "PYTEST")


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Path]:
    """A folder outside of the repository: `venv` with the wheel over its locked dependencies, `bin` with kilo."""
    with tempfile.TemporaryDirectory(prefix="gastown-wheel-") as name:
        folder = Path(name)
        wheel = build("wheel", REPOSITORY, folder / "dist")
        lock = shutil.copy(REPOSITORY / "requirements-runtime.lock", folder)
        python = folder / "venv" / "bin" / "python"
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
        for command in (
            [sys.executable, "-m", "venv", str(folder / "venv")],
            [*pip, "--require-hashes", "--requirement", str(lock)],
            [*pip, "--no-deps", "--no-index", str(wheel)],
        ):
            subprocess.run(command, cwd=folder, env=environment(folder), check=True)
        (folder / "bin").mkdir()
        shutil.copy(KILO.resolve(), folder / "bin" / "kilo")
        yield folder


def environment(folder: Path, *, with_kilo: bool = False) -> dict[str, str]:
    """The machine's own, without what leads to the repository; `kilo` is on the path if asked for."""
    places = [place for place in os.environ["PATH"].split(":") if not reaches(place)]
    kept = {name: value for name, value in os.environ.items() if not (name.startswith(LEFT_OUT) or reaches(value))}
    return kept | {"PATH": ":".join([str(folder / "bin")] * with_kilo + places), "PWD": str(folder)}


def reaches(text: str) -> bool:
    return str(REPOSITORY) in text


def traces(pid: int) -> Iterator[str]:
    """Where a process has its program, its folder, its open files and its memory from, and what it was told."""
    place = Path(f"/proc/{pid}")
    with suppress(OSError):  # it may end meanwhile
        for link in (place / "exe", place / "cwd", *(place / "fd").iterdir()):
            with suppress(FileNotFoundError):
                yield str(link.readlink())
        for file in ("maps", "environ", "cmdline"):
            yield (place / file).read_bytes().decode(errors="replace")


async def test_the_wheel_alone_brings_up_a_town_whose_mayor_answers(elsewhere, tmp_path):
    assert any(reaches(trace) for trace in traces(os.getpid())), "the look at a process sees nothing"
    report = tmp_path / "up.json"
    command = [str(elsewhere / "venv/bin/gastown"), "up", "--dir", str(tmp_path / "town"), "--port", "0"]
    said = tmp_path / "up.log"
    with said.open("wb") as log:
        process = await trio.lowlevel.open_process(
            [*command, "--json", str(report)],
            cwd=elsewhere,
            env=environment(elsewhere, with_kilo=True),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        try:
            answer = await first_answer(report)
        except trio.TooSlowError as error:
            error.add_note(f"what up said:\n{said.read_text(errors='replace')[-8000:]}")
            raise
        family = [process.pid, *descendants(process.pid)]
        strays = {trace[:300] for pid in family for trace in traces(pid) if reaches(trace)}
        kilos = [pid for pid in family if str(elsewhere / "bin" / "kilo") in traces(pid)]
    finally:
        process.send_signal(signal.SIGINT)
        with trio.move_on_after(60, shield=True):
            await process.wait()
    assert process.returncode == 0
    assert answer["turn"]["reason"] == "completed"
    assert answer["turn"]["text"].startswith("(A script plays here")
    assert strays == set()
    assert kilos, "kilo was not the one on the path"
    assert alive(family) == []


def test_the_wheel_without_kilo_says_what_to_install(elsewhere, tmp_path):
    up = [str(elsewhere / "venv/bin/gastown"), "up", "--dir", str(tmp_path / "town"), "--port", "0"]
    ended = subprocess.run(
        up, cwd=elsewhere, env=environment(elsewhere), capture_output=True, text=True, check=False, timeout=60
    )
    assert ended.returncode == 2
    assert f"npm install --global @kilocode/cli@{KILO_VERSION}" in ended.stderr


def test_the_wheel_knows_its_version(elsewhere):
    command = [str(elsewhere / "venv/bin/gastown"), "--version"]
    told = subprocess.run(command, cwd=elsewhere, env=environment(elsewhere), capture_output=True, check=True)
    assert told.stdout.decode() == f"gastown {__version__}\n"
