"""Rings of events and their subscribers."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from gastown.concurrency.hub import Gap, Hub, HubClosed, Published, Subscription

SIZE = 5


def hub_with(count: int, key: str = "a", size: int = SIZE) -> Hub[str]:
    hub: Hub[str] = Hub(size)
    for number in range(1, count + 1):
        hub.publish(key, number, f"{key}{number}")
    return hub


def shown(entries: list[Published[str] | Gap]) -> list[Any]:
    return [(e.key, e.first, e.last) if isinstance(e, Gap) else e.item for e in entries]


async def read(subscription: Subscription[str]) -> list[Any]:
    return shown(await subscription.next())


async def nothing_comes(subscription: Subscription[str]) -> bool:
    with trio.move_on_after(60):
        await subscription.next()
        return False
    return True


async def test_a_subscriber_gets_what_is_kept_and_then_what_comes(autojump_clock) -> None:
    hub = hub_with(3)
    with hub.subscribe() as subscription:
        subscription.follow("a")
        assert await read(subscription) == ["a1", "a2", "a3"]
        hub.publish("a", 4, "a4")
        hub.publish("b", 5, "b5")
        assert await read(subscription) == ["a4"]
        assert await nothing_comes(subscription)


async def test_a_subscriber_that_names_the_newest_id_gets_only_what_comes(autojump_clock) -> None:
    hub = hub_with(3)
    with hub.subscribe() as subscription:
        subscription.follow("a", after=3)
        assert await nothing_comes(subscription)
        hub.publish("a", 4, "a4")
        assert await read(subscription) == ["a4"]


async def test_a_subscriber_that_waits_is_woken(autojump_clock) -> None:
    hub = hub_with(0)
    found = []
    with hub.subscribe() as subscription:
        subscription.follow("a")
        async with trio.open_nursery() as nursery:

            async def reader() -> None:
                found.extend(await read(subscription))

            nursery.start_soon(reader)
            await trio.testing.wait_all_tasks_blocked()
            hub.publish("a", 1, "a1")
    assert found == ["a1"]


async def test_who_falls_behind_loses_what_the_ring_has_lost_and_is_told_exactly_that(autojump_clock) -> None:
    hub = hub_with(2)
    with hub.subscribe() as subscription:
        subscription.follow("a")
        await read(subscription)
        for number in range(3, 13):
            hub.publish("a", number, f"a{number}")
        assert await read(subscription) == [("a", 3, 7), "a8", "a9", "a10", "a11", "a12"]
        hub.publish("a", 13, "a13")
        assert await read(subscription) == ["a13"]


async def test_what_was_lost_before_a_subscription_is_no_gap(autojump_clock) -> None:
    hub = hub_with(12)
    with hub.subscribe() as subscription:
        subscription.follow("a")
        assert await read(subscription) == ["a8", "a9", "a10", "a11", "a12"]


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (3, [("a", 4, 7), "a8", "a9", "a10", "a11", "a12"]),
        (7, ["a8", "a9", "a10", "a11", "a12"]),
        (11, ["a12"]),
        (999, ["a8", "a9", "a10", "a11", "a12"]),  # an id of an earlier container
    ],
)
async def test_a_subscriber_goes_on_behind_the_id_that_it_names(autojump_clock, after, expected) -> None:
    hub = hub_with(12)
    with hub.subscribe() as subscription:
        subscription.follow("a", after)
        assert await read(subscription) == expected


async def test_several_keys_come_in_the_order_of_their_ids(autojump_clock) -> None:
    hub: Hub[str] = Hub(SIZE)
    with hub.subscribe() as subscription:
        subscription.follow("a")
        subscription.follow("b")
        for number, key in enumerate("abbab", 1):
            hub.publish(key, number, f"{key}{number}")
        assert await read(subscription) == ["a1", "b2", "b3", "a4", "b5"]


async def test_following_a_key_twice_brings_nothing_twice(autojump_clock) -> None:
    hub = hub_with(1)
    with hub.subscribe() as subscription:
        subscription.follow("a")
        assert await read(subscription) == ["a1"]
        subscription.follow("a")
        assert await nothing_comes(subscription)


async def test_all_keys_bring_only_what_comes_and_a_key_beside_them_only_its_past(autojump_clock) -> None:
    hub = hub_with(2)
    with hub.subscribe() as subscription:
        subscription.follow_all()
        hub.publish("a", 3, "a3")
        hub.publish("b", 4, "b4")
        assert await read(subscription) == ["a3", "b4"]
        subscription.follow("a")
        hub.publish("a", 5, "a5")
        assert await read(subscription) == ["a1", "a2", "a5"]
        assert await nothing_comes(subscription)


async def test_a_key_that_is_forgotten_takes_from_its_subscribers_what_they_have_not_read(autojump_clock) -> None:
    hub = hub_with(2)
    with hub.subscribe() as subscription:
        subscription.follow("a")
        hub.forget("a")
        hub.publish("a", 3, "a3")
        assert await read(subscription) == [("a", 1, 2), "a3"]


async def test_what_is_kept_is_still_read_when_the_hub_closes(autojump_clock) -> None:
    hub = hub_with(2)
    with hub.subscribe() as subscription:
        subscription.follow("a")
        hub.close("the container stops")
        assert await read(subscription) == ["a1", "a2"]
        with pytest.raises(HubClosed, match="the container stops"):
            await subscription.next()


async def test_a_subscriber_that_waits_ends_when_the_hub_closes(autojump_clock) -> None:
    hub = hub_with(0)
    with hub.subscribe() as subscription:
        subscription.follow("a")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, subscription)
            await trio.testing.wait_all_tasks_blocked()
            hub.close("the end")
        with pytest.raises(HubClosed):
            await subscription.next()


def test_nothing_stays_of_a_subscriber_that_has_left() -> None:
    hub = hub_with(1)
    for _ in range(3):
        with hub.subscribe() as subscription:
            subscription.follow_all()
            for name in ("a", "b", "c"):
                subscription.follow(name)
            hub.publish("a", hub.newest + 1, "again")
    hub.forget("a")
    assert (hub._rings, len(hub._all.items), hub._all.readers, hub._all.asleep) == ({}, 0, 0, {})


@given(st.lists(st.one_of(st.sampled_from("ab"), st.just("read")), max_size=60))
def test_every_item_is_either_delivered_once_or_in_a_gap(steps: list[str]) -> None:
    """Whatever the pace: what is delivered and what gaps name is all there was, without overlap, in order."""

    async def run() -> None:
        hub: Hub[str] = Hub(SIZE)
        published: dict[int, str] = {}
        seen: list[Published[str] | Gap] = []
        with hub.subscribe() as subscription:
            subscription.follow("a")
            subscription.follow("b")
            for step in [*steps, "read"]:
                if step == "read":
                    subscription.wake()
                    seen += await subscription.next()
                    continue
                number = len(published) + 1
                published[number] = step
                hub.publish(step, number, f"{step}{number}")
        for key in "ab":
            mine = [e for e in seen if e.key == key]
            ids = [number for number, name in published.items() if name == key]
            told: list[int] = []
            for entry in mine:
                if isinstance(entry, Gap):
                    told += [i for i in ids if entry.first <= i <= entry.last]
                else:
                    told.append(entry.id)
            assert told == ids

    trio.run(run)
