"""Spawn slots: never too many at a time, the most urgent first, and none lost."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from gastown.concurrency.slots import Priority, PrioritySlots, Slot

pytestmark = pytest.mark.virtual_time


class Queue:
    """Takers of slots, each with a name; `served` is the order in which they got theirs."""

    def __init__(self, nursery: trio.Nursery, capacity: int = 1) -> None:
        self.slots = PrioritySlots(capacity)
        self.served: list[str] = []
        self.held: dict[str, Slot] = {}
        self.scopes: dict[str, trio.CancelScope] = {}
        self._nursery = nursery

    async def join(self, name: str, priority: Priority = Priority.RESUME) -> None:
        """Ask for a slot in the background, and return once the question has been put."""
        self.scopes[name] = trio.CancelScope()
        self._nursery.start_soon(self._take, name, priority)
        await wait_all_tasks_blocked()

    async def _take(self, name: str, priority: Priority) -> None:
        with self.scopes[name]:
            self.held[name] = await self.slots.take(priority)
            self.served.append(name)

    async def release(self, name: str) -> None:
        self.held.pop(name).release()
        await wait_all_tasks_blocked()

    async def release_all(self) -> None:
        while self.held:
            await self.release(next(iter(self.held)))


@pytest.fixture
async def queue(nursery: trio.Nursery) -> Queue:
    return Queue(nursery)


async def test_no_more_slots_are_out_than_there_are(nursery: trio.Nursery) -> None:
    queue = Queue(nursery, capacity=2)
    for name in "abc":
        await queue.join(name)
    assert (queue.served, queue.slots.in_use, queue.slots.waiting) == (["a", "b"], 2, 1)
    await queue.release("a")
    assert (queue.served, queue.slots.in_use, queue.slots.waiting) == (["a", "b", "c"], 2, 0)


async def test_less_than_one_slot_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        PrioritySlots(0)


async def test_the_most_urgent_waiter_is_served_first(queue: Queue) -> None:
    await queue.join("running")
    for priority in (Priority.RESUME, Priority.REFRESH, Priority.INTERACTIVE, Priority.PREWARM):
        await queue.join(priority.name, priority)
    await queue.release_all()
    assert queue.served == ["running", "INTERACTIVE", "PREWARM", "REFRESH", "RESUME"]


async def test_waiters_of_one_urgency_are_served_in_the_order_of_their_arrival(queue: Queue) -> None:
    for name in "abcde":
        await queue.join(name, Priority.REFRESH)
    await queue.release_all()
    assert queue.served == list("abcde")


async def test_a_cancelled_waiter_gives_up_its_place(queue: Queue) -> None:
    for name in "abc":
        await queue.join(name)
    queue.scopes["b"].cancel()
    await wait_all_tasks_blocked()
    await queue.release_all()
    assert (queue.served, queue.slots.in_use, queue.slots.waiting) == (["a", "c"], 0, 0)


async def test_with_a_waiter_in_the_middle_gone_the_most_urgent_still_goes_first(queue: Queue) -> None:
    urgent, later = Priority.INTERACTIVE, Priority.RESUME
    await queue.join("running")
    for name, priority in zip("abcdef", (urgent, urgent, later, later, urgent, later), strict=True):
        await queue.join(name, priority)
    queue.scopes["b"].cancel()
    await wait_all_tasks_blocked()
    await queue.release_all()
    assert queue.served == ["running", "a", "e", "c", "d", "f"]


@pytest.mark.parametrize("cancelled_first", [True, False])
async def test_a_waiter_cancelled_as_its_slot_is_granted_hands_it_on(
    queue: Queue, *, cancelled_first: bool
) -> None:
    for name in "abc":
        await queue.join(name)
    if cancelled_first:
        queue.scopes["b"].cancel()
    queue.held.pop("a").release()
    queue.scopes["b"].cancel()
    await wait_all_tasks_blocked()
    await queue.release_all()
    assert (queue.served[-1], queue.slots.in_use, queue.slots.waiting) == ("c", 0, 0)


async def test_quiet_keeps_resumes_waiting(queue: Queue) -> None:
    with queue.slots.hold_resumes():
        await queue.join("resume", Priority.RESUME)
        assert queue.served == []
    await wait_all_tasks_blocked()
    assert queue.served == ["resume"]


@pytest.mark.parametrize("priority", [u for u in Priority if u is not Priority.RESUME])
async def test_quiet_keeps_nobody_else_waiting(queue: Queue, priority: Priority) -> None:
    with queue.slots.hold_resumes():
        await queue.join("resume", Priority.RESUME)
        await queue.join("other", priority)
        assert queue.served == ["other"]


async def test_quiet_lasts_until_the_last_who_asked_for_it_is_done(queue: Queue) -> None:
    with queue.slots.hold_resumes():
        with queue.slots.hold_resumes():
            await queue.join("resume", Priority.RESUME)
        await wait_all_tasks_blocked()
        assert queue.served == []
    await wait_all_tasks_blocked()
    assert queue.served == ["resume"]


async def test_a_resume_that_has_its_slot_keeps_it_in_quiet(queue: Queue) -> None:
    await queue.join("resume", Priority.RESUME)
    with queue.slots.hold_resumes():
        assert queue.slots.in_use == 1


async def test_releasing_twice_is_releasing_once(nursery: trio.Nursery) -> None:
    queue = Queue(nursery, capacity=2)
    await queue.join("a")
    await queue.join("b")
    slot = queue.held["a"]
    slot.release()
    slot.release()
    with slot:
        pass
    assert queue.slots.in_use == 1


async def test_leaving_the_block_releases_the_slot_also_after_an_error() -> None:
    slots = PrioritySlots(1)
    with pytest.raises(ValueError, match="inside"), await slots.take(Priority.RESUME):
        raise ValueError("inside")
    assert slots.in_use == 0


STEP = st.one_of(
    st.tuples(st.just("join"), st.sampled_from(Priority)),
    st.tuples(st.just("release"), st.integers(0, 20)),
    st.tuples(st.just("cancel"), st.integers(0, 20)),
    st.tuples(st.just("look"), st.none()),
)


@settings(max_examples=60, deadline=None)
@given(capacity=st.integers(1, 3), steps=st.lists(STEP, max_size=30))
def test_whatever_happens_no_slot_is_lost_and_none_is_given_twice(
    capacity: int, steps: list[tuple[str, object]]
) -> None:
    """Steps without `look` between them happen in the same instant."""

    async def play() -> None:
        async with trio.open_nursery() as nursery:
            queue = Queue(nursery, capacity)
            for number, (step, what) in enumerate(steps):
                held = list(queue.held)
                if step == "join":
                    queue.scopes[str(number)] = trio.CancelScope()
                    nursery.start_soon(queue._take, str(number), what)
                elif step == "release" and held:
                    queue.held.pop(held[what % len(held)]).release()
                elif step == "cancel" and queue.scopes:
                    list(queue.scopes.values())[what % len(queue.scopes)].cancel()
                elif step == "look":
                    await wait_all_tasks_blocked()
                    assert queue.slots.in_use == len(queue.held) <= capacity
                    assert queue.slots.waiting == 0 or queue.slots.in_use == capacity
                assert queue.slots.in_use <= capacity
            await wait_all_tasks_blocked()
            await queue.release_all()
        assert (queue.slots.in_use, queue.slots.waiting, queue.held) == (0, 0, {})

    trio.run(play)
