"""The boot waterfall as text, and how it is made from what `up` saw."""

from __future__ import annotations

import pytest

from gastown.contract.town import Phase
from gastown.contract.worker import StartupPhaseEvent
from gastown.hall.cli.waterfall import Bar, Sightings, bars_from, render

BARS = [
    Bar("hall", 0, 40),
    Bar("container process", 40, 440),
    Bar("  mayor prewarm", 440, 2940, "mayor-1"),
    Bar("answer", 3000, 4000),
]


def test_bars_are_drawn_to_scale_with_their_milliseconds() -> None:
    assert render(BARS, 70) == [
        "                            0       1 s     2        3",
        "hall                 40 ms │▍                                │",
        "container process   400 ms │███▋                             │",
        "  mayor prewarm   2 500 ms │   █████████████████████▎        │ mayor-1",
        "answer            1 000 ms │                        █████████│",
    ]


def test_a_terminal_without_blocks_gets_plain_characters() -> None:
    assert all(line.isascii() for line in render(BARS, 70, blocks=False))
    assert render(BARS, 70, blocks=False)[4].endswith("|                        #########|")


@pytest.mark.parametrize("width", [50, 60, 80, 133, 200])
@pytest.mark.parametrize("blocks", [True, False])
def test_no_line_is_wider_than_the_terminal(width: int, blocks: bool) -> None:
    lines = render([*BARS, Bar("x" * 99, 10, 20, "n" * 5)], width, blocks=blocks)
    assert max(map(len, lines)) <= width


def test_colour_is_there_only_when_it_was_asked_for() -> None:
    assert "\x1b" not in "".join(render(BARS, 80))
    coloured = render([*BARS, Bar("goes on", 3000, None)], 80, colour=True)
    assert all("\x1b[3" in line for line in coloured[1:])
    assert coloured[-1].count("\x1b[33m") == 1


def test_colour_changes_no_letter() -> None:
    plain = render(BARS, 80)
    bare = [line.replace("\x1b[32m", "").replace("\x1b[0m", "") for line in render(BARS, 80, colour=True)]
    assert bare == plain


def test_a_phase_that_goes_on_reaches_the_end_and_has_no_time() -> None:
    line = render([Bar("done", 0, 100), Bar("goes on", 50, None)], 60)[2]
    assert line.startswith("goes on      … │")
    assert line.endswith("█│")


@pytest.mark.parametrize("bar", [Bar("quick", 0, 0), Bar("quick", 1000, 1000), Bar("before", -5, 2)])
@pytest.mark.parametrize("blocks", [True, False])
def test_even_the_quickest_phase_is_seen(bar: Bar, blocks: bool) -> None:
    line = render([Bar("long", 0, 1000), bar], 60, blocks=blocks)[2]
    assert line.split("│" if blocks else "|")[1].strip()


def test_nothing_seen_is_nothing_drawn() -> None:
    assert bars_from(Sightings()) == []
    assert render([], 80) == []


def test_control_characters_in_names_do_not_reach_the_terminal() -> None:
    assert "\x1b" not in "".join(render([Bar("a\x1b[31m", 0, 1, "b\x07\n")], 80))


def test_the_containers_phases_count_from_its_spawn() -> None:
    seen = Sightings(
        hall_ms=30,
        spawned_ms=50,
        healthy_ms=450,
        timeline=(
            Phase(name="registry", start_ms=300, duration_ms=20, outcome="ok"),
            Phase(name="prewarm", agent_id="mayor-1", start_ms=320, duration_ms=None, outcome="slow"),
        ),
    )
    assert bars_from(seen) == [
        Bar("hall", 0, 30),
        Bar("container process", 50, 450),
        Bar("  registry", 350, 370),
        Bar("  prewarm", 370, None, "mayor-1, slow"),
    ]


def test_the_phases_of_the_start_end_where_they_say_after_its_request() -> None:
    def phase(label: str, elapsed: int, took: int) -> StartupPhaseEvent:
        return StartupPhaseEvent.model_validate(
            {
                "townId": "oak",
                "agentId": "mayor-1",
                "role": "mayor",
                "label": label,
                "elapsedMs": elapsed,
                "phaseMs": took,
            }
        )

    seen = Sightings(
        requested_ms=1000,
        started_ms=1200,
        prompted_ms=1150,
        first_word_ms=1500,
        answered_ms=2000,
        startup=[phase("db_hydrated", 10, 10), phase("sdk_ready", 100, 90)],
    )
    assert bars_from(seen) == [
        Bar("mayor start", 1000, 1200),
        Bar("  db_hydrated", 1000, 1010),
        Bar("  sdk_ready", 1010, 1100),
        Bar("first word", 1150, 1500),
        Bar("answer", 1500, 2000),
    ]


def test_a_first_word_that_never_came_is_a_bar_without_an_end() -> None:
    assert bars_from(Sightings(prompted_ms=10)) == [Bar("first word", 10, None)]
