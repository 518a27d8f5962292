"""The clock of `gastown up`, which stands still while the process is stopped."""

from __future__ import annotations

import pytest

from gastown.hall.cli.awake_clock import AwakeClock


class Machine:
    """The machine's clock, moved by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("gastown.hall.cli.awake_clock.time.monotonic", lambda: self.now)
        self.clock = AwakeClock()

    def sleep(self, seconds: float, late: float = 0.0) -> None:
        """Sleep as Trio does until a deadline, and wake up too late."""
        deadline = self.clock.current_time() + seconds
        assert self.clock.deadline_to_sleep_time(deadline) == pytest.approx(seconds)
        self.now += seconds + late


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def test_it_goes_as_the_machines_does(machine: Machine) -> None:
    began = machine.clock.current_time()
    for _ in range(3):
        machine.sleep(60.0, late=0.1)
    assert machine.clock.current_time() - began == pytest.approx(180.3)


def test_the_time_in_which_the_process_was_stopped_does_not_count(machine: Machine) -> None:
    began = machine.clock.current_time()
    machine.sleep(5.0, late=600.0)
    assert machine.clock.current_time() - began == pytest.approx(5.0)
    machine.sleep(1.0)
    assert machine.clock.current_time() - began == pytest.approx(6.0)


def test_a_stop_while_the_process_works_does_not_count_either(machine: Machine) -> None:
    began = machine.clock.current_time()
    machine.now += 30.0
    assert machine.clock.current_time() == began


def test_waking_up_before_the_deadline_is_not_late(machine: Machine) -> None:
    began = machine.clock.current_time()
    machine.clock.deadline_to_sleep_time(float("inf"))
    machine.now += 3600.0
    assert machine.clock.current_time() - began == pytest.approx(3600.0)
