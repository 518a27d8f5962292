"""The kept events of agents."""

from __future__ import annotations

from datetime import UTC, datetime

from gastown.agents.session.event_log import KEPT, EventLog

NOW = datetime(2030, 5, 1, 12, 0, tzinfo=UTC)


def ids(log: EventLog, agent_id: str, after: int = 0) -> list[int]:
    return [event.id for event in log.after(agent_id, after)]


def test_ids_grow_over_all_agents() -> None:
    log = EventLog(lambda: NOW)
    for agent in ("a", "b", "a", "b"):
        log.append(agent, "e", {})
    assert (ids(log, "a"), ids(log, "b")) == ([1, 3], [2, 4])


def test_only_events_after_the_last_one_seen_are_given() -> None:
    log = EventLog(lambda: NOW)
    for _ in range(5):
        log.append("a", "e", {})
    assert (ids(log, "a", 3), ids(log, "a", 5), ids(log, "a", 99)) == ([4, 5], [], [])


def test_an_unknown_agent_has_none() -> None:
    assert ids(EventLog(lambda: NOW), "nobody") == []


def test_the_newest_2000_are_kept_for_each_agent() -> None:
    log = EventLog(lambda: NOW)
    log.append("b", "e", {})
    for _ in range(2_100):
        log.append("a", "e", {})
    assert (KEPT, ids(log, "a"), ids(log, "b")) == (2_000, list(range(102, 2_102)), [1])


def test_a_forgotten_agent_has_none_and_ids_go_on() -> None:
    log = EventLog(lambda: NOW)
    log.append("a", "e", {})
    log.forget("a")
    assert ids(log, "a") == []
    assert log.append("a", "e", {}).id == 2


def test_an_event_is_written_with_its_time_in_utc_and_milliseconds() -> None:
    event = EventLog(lambda: NOW).append("a", "session.idle", {"x": 1})
    assert event.model_dump(mode="json", by_alias=True) == {
        "id": 1,
        "event": "session.idle",
        "data": {"x": 1},
        "timestamp": "2030-05-01T12:00:00.000Z",
    }
