"""A log that cannot be written holds nobody up; what was lost is counted, and told of when writing works again."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from gastown.hall.cli import up
from gastown.log_sink import LineSink

GUARD_SECONDS = 30
LINES = 10_000
LOGS = f"""
import logging, structlog
from gastown import logs
logs.configure(tuple)
for number in range({LINES}):
    structlog.get_logger().info("thing.happened", number=number)
logging.getLogger("library").warning("heard %s", "something")
print("answers", logs.dropped_lines(), flush=True)
"""


class Pipe:
    """`reading` and `writing`, of a pipe with room for 64 KiB."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()

    def read(self, size: int = 65536) -> bytes:
        return os.read(self.reading, size)

    def fill(self) -> None:
        """Leave no room in it, so that the next write waits for a reader."""
        os.write(self.writing, b"x" * fcntl.fcntl(self.writing, fcntl.F_GETPIPE_SZ))


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    for descriptor in (pipe.reading, pipe.writing):
        with suppress(OSError):
            os.close(descriptor)


def run(script: str, stderr: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script]
    return subprocess.run(
        command, stdout=subprocess.PIPE, stderr=stderr, text=True, timeout=GUARD_SECONDS, check=False
    )


def test_a_process_logs_on_a_full_disk_and_ends_in_order() -> None:
    """Every line is refused, and none of the process's own work is."""
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        done = run(LOGS, full)
    finally:
        os.close(full)
    assert (done.returncode, done.stdout.split()[0]) == (0, "answers")


def test_a_process_logs_to_a_reader_that_has_gone_and_ends_in_order(pipe: Pipe) -> None:
    os.close(pipe.reading)
    done = run(LOGS, pipe.writing)
    assert (done.returncode, done.stdout.split()[0]) == (0, "answers")


def test_a_process_logs_to_a_pipe_that_nobody_reads_and_ends_in_order(pipe: Pipe) -> None:
    """What the pipe and the buffer do not hold is dropped, and its last second does not become a minute."""
    done = run(LOGS.replace("number=number", "number=number, text='x' * 500"), pipe.writing)
    (said, dropped) = done.stdout.split()
    assert (done.returncode, said) == (0, "answers")
    assert int(dropped) > LINES / 2


def test_a_process_without_stderr_writes_to_no_other_file(tmp_path: Path) -> None:
    """The number of a closed stderr goes to the next file that is opened, here one of the process's own."""
    script = f"own = open({str(tmp_path / 'own')!r}, 'w'); assert own.fileno() == 2\n{LOGS}"
    command = ["sh", "-c", 'exec "$0" -c "$1" 2>&-', sys.executable, script]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=GUARD_SECONDS, check=False)
    assert (done.returncode, done.stdout.split()[0]) == (0, "answers")
    assert (tmp_path / "own").read_text() == ""


def test_the_last_lines_of_a_process_are_written() -> None:
    """Also those of a burst, a complaint after them, and what a library says; all in their order."""
    done = run(LOGS + "logs.complain('gastown: the end')", subprocess.PIPE)
    *lines, library, complaint = done.stderr.splitlines()
    assert [json.loads(line)["number"] for line in lines] == list(range(LINES))
    assert json.loads(library)["text"] == "heard something"
    assert complaint == "gastown: the end"
    assert done.stdout == "answers 0\n"


def test_lines_that_find_no_room_are_counted_and_told_of_when_there_is_a_reader_again(pipe: Pipe) -> None:
    pipe.fill()
    sink = LineSink(pipe.writing, held_bytes=len("line 0\n") * 2)
    for number in range(10):
        sink.write(f"line {number}\n")
    assert sink.dropped == 8
    assert not sink.settle(0)
    pipe.read(fcntl.fcntl(pipe.writing, fcntl.F_GETPIPE_SZ))
    assert sink.settle(GUARD_SECONDS)
    written = pipe.read().decode().splitlines()
    assert [line for line in written if "{" not in line] == ["line 0", "line 1"]
    (told,) = [json.loads(line) for line in written if "{" in line]
    assert told.items() >= {"event": "log.dropped", "lines": 8, "level": "warning"}.items()


def test_lines_that_cannot_be_written_are_counted_and_told_of_when_the_disk_has_room(tmp_path: Path) -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    sink = LineSink(descriptor)
    for _ in range(3):
        sink.write("lost\n")
    assert sink.settle(GUARD_SECONDS)
    assert sink.dropped == 3
    file = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    os.dup2(file, descriptor)
    sink.write("kept\n")
    assert sink.settle(GUARD_SECONDS)
    kept, told = (tmp_path / "log").read_text().splitlines()
    assert (kept, json.loads(told)["lines"]) == ("kept", 3)
    os.close(file)
    os.close(descriptor)


def test_a_reader_that_another_process_made_impatient_gets_every_line(pipe: Pipe) -> None:
    """O_NONBLOCK belongs to the pipe, and so to each process that has it."""
    os.set_blocking(pipe.writing, False)
    sink = LineSink(pipe.writing)
    pipe.fill()
    sink.write("line\n")
    read = b""
    while not read.endswith(b"line\n"):
        read += pipe.read()
    assert (sink.settle(GUARD_SECONDS), sink.dropped) == (True, 0)


def test_a_forked_child_logs_too(pipe: Pipe) -> None:
    """It has none of its parent's threads, and does not write what its parent still holds."""
    sink = LineSink(pipe.writing)
    sink.write("parent\n")
    assert sink.settle(GUARD_SECONDS)
    pid = os.fork()
    if pid == 0:
        sink.write("child\n")
        os._exit(0 if sink.settle(GUARD_SECONDS) else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert pipe.read() == b"parent\nchild\n"


def test_a_line_waits_when_no_thread_can_be_had(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """As below a limit of processes that agents have used up."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    sink = LineSink(pipe.writing)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        sink.write("first\n")
    sink.write("second\n")
    assert sink.settle(GUARD_SECONDS)
    assert pipe.read() == b"first\nsecond\n"


@pytest.mark.parametrize("path", ["/dev/full", "/dev/null/hall.log"])
def test_the_hall_goes_on_when_its_log_cannot_be_written(path: str, capfd: pytest.CaptureFixture[str]) -> None:
    handler = up._LogFile(path, delay=True)
    handler.handle(logging.LogRecord("hall", logging.WARNING, __file__, 1, "line", None, None))
    handler.close()
    assert capfd.readouterr().err == ""
