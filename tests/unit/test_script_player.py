"""What the stand-in answers from a script: which turn, which answer of it, with which values."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gastown.hall.prompts import prompt_of
from gastown.hall.stand_in.failures import Failures
from gastown.hall.stand_in.player import LAST_WORDS, TITLE, Played, play
from gastown.hall.stand_in.script import Failure, Script
from gastown.testing.script import answer, bash, call, fail, keep, say, script, when

TASK = "Your task, bead b-1: Paint the barn\n\nYou are on the branch gt/b-1 of site."
RIG_TOOLS, MAYOR_TOOLS = ("bash", "gt_done", "gt_prime"), ("bash", "gt_sling", "gt_sling_batch")


class Talk:
    """A conversation as kilo would lead it: each answer and each result goes into the next request."""

    def __init__(self, played: Script, tools: tuple[str, ...] = RIG_TOOLS, system: str = "") -> None:
        self.script = played
        self.body: dict[str, Any] = {
            "messages": [{"role": "system", "content": system}],
            "tools": [{"type": "function", "function": {"name": name, "parameters": {}}} for name in tools],
        }

    def user(self, text: str) -> Played | None:
        self.body["messages"].append({"role": "user", "content": text})
        return self.played()

    def played(self) -> Played | None:
        return play(self.script, json.loads(json.dumps(self.body)))

    def next(self, *results: str) -> Played:
        """The answer after the one that is due, whose calls had these results."""
        said = self.played()
        assert said is not None
        number = len(self.body["messages"])
        ids = [f"call_{number}_{index}" for index, _ in enumerate(said.calls)]
        calls = [
            {"id": own, "type": "function", "function": {"name": one.tool, "arguments": json.dumps(one.arguments)}}
            for own, one in zip(ids, said.calls, strict=True)
        ]
        self.body["messages"].append({"role": "assistant", "content": said.text, "tool_calls": calls})
        self.body["messages"] += [
            {"role": "tool", "tool_call_id": own, "content": result}
            for own, result in zip(ids, results, strict=True)
        ]
        following = self.played()
        assert following is not None
        return following


def told(played: Played | None) -> str:
    """The text of an answer, without the announcement that it is a script."""
    assert played is not None
    return played.text.partition("”.)\n\n")[2] or played.text


def test_the_answers_of_a_turn_follow_each_other_and_then_there_is_no_more_to_say() -> None:
    """How many answers there were since the last message says which one is next."""
    talk = Talk(
        script("s", when().then(say("one"), bash("a")).then(say("two"), bash("b"), bash("c")).then(say("3")))
    )
    assert told(talk.user("go")) == "one"
    assert (told(talk.next("")), told(talk.next("", "")), told(talk.next())) == ("two", "3", LAST_WORDS)


def test_the_first_words_of_a_conversation_say_that_it_is_a_script() -> None:
    """Also where the first answer has no text; no later one says so again."""
    talk = Talk(script("barn", when().then(bash("a")).then(say("two"))))
    first = talk.user("go")
    assert first is not None
    assert first.text == "(A script plays here, no language model: “barn”.)"
    assert talk.next("").text == "two"


def test_the_first_turn_that_fits_answers() -> None:
    """Turns are looked at in their order; what none fits is not the script's."""
    played = script("s", when("paint", times=1).then(say("p")), when("(?i)PAINT").then(say("q")))
    talk = Talk(played)
    assert told(talk.user("please paint")) == "p"
    talk.next()
    assert told(talk.user("please paint")) == "q"
    talk.next()
    assert talk.user("something else") is None


def test_a_turn_answers_as_often_as_it_says_in_one_conversation() -> None:
    """Unanswered messages count too: the request tells nothing of why they have no answer."""
    talk = Talk(script("s", when("x", times=2).then(say("yes")), when().then(say("no"))))
    assert [told(talk.user("x")) for _ in range(3)] == ["yes", "yes", "no"]
    assert told(Talk(talk.script).user("x")) == "yes"


@pytest.mark.parametrize(
    ("tools", "system", "expected"),
    [
        (MAYOR_TOOLS, prompt_of("polecat"), "mayor"),
        (RIG_TOOLS, f"You are Kilo.\n{prompt_of('polecat')}", "polecat"),
        (RIG_TOOLS, prompt_of("refinery"), "refinery"),
        (RIG_TOOLS, prompt_of("triage"), "triage"),
        (RIG_TOOLS, "You are Kilo.", "rig"),
        (("bash",), prompt_of("polecat"), "any"),
        (
            RIG_TOOLS,
            '--- GASTOWN CONTEXT ---\nWhat …:\n{\n  "agent": {\n    "id": "a",\n    "role": "refinery"\n  }\n}',
            "refinery",
        ),
    ],
)
def test_the_role_is_what_the_request_shows_of_it(tools: tuple[str, ...], system: str, expected: str) -> None:
    """By the tools, the town's prompt and what the town lets an agent know."""
    roles = ("mayor", "polecat", "refinery", "triage", "rig")
    talk = Talk(
        script("s", *(when(role=role).then(say(role)) for role in roles), when().then(say("any"))), tools, system
    )
    assert told(talk.user("go")) == expected


def test_a_turn_for_rig_agents_is_for_all_but_the_mayor() -> None:
    played = script("s", when(role="rig").then(say("rig")), when().then(say("any")))
    assert told(Talk(played, system=prompt_of("refinery")).user("go")) == "rig"
    assert told(Talk(played, MAYOR_TOOLS).user("go")) == "any"


def test_what_a_message_names_is_used_in_texts_and_arguments() -> None:
    """A named group is a value; in the middle of a text or alone, at any depth of the arguments."""
    talk = Talk(
        script(
            "s",
            when(r"bead (?P<bead>\S+): .*branch (?P<branch>\S+)".replace(".*", r"[\s\S]*")).then(
                say("For {{bead}}:"), call("gt_done", branch="{{ branch }}", deep=[{"of": "<{{bead}}>"}], count=3)
            ),
        )
    )
    played = talk.user(TASK)
    assert told(played) == "For b-1:"
    assert played is not None
    assert played.calls[0].arguments == {"branch": "gt/b-1", "deep": [{"of": "<b-1>"}], "count": 3}


def test_results_of_calls_are_used_by_later_answers_and_later_turns() -> None:
    """A path into the JSON of a result, which has a line of text before it; a pattern; and all of it."""
    batch = "The work is queued.\n" + json.dumps({"beads": [{"id": "b-1"}, {"id": "b-2"}], "total": 2}, indent=2)
    keeps = {"second": keep("beads.1.id"), "total": keep("total"), "short": keep("beads.0.id", pattern=r"b-(\d)")}
    talk = Talk(
        script(
            "s",
            when("go")
            .then(
                call("gt_sling_batch", keeps),
                bash("git log", {"all": keep(), "commit": keep(pattern="[0-9a-f]{7}")}),
            )
            .then(
                call("show", second="{{second}}", total="{{total}}", text="{{short}} of {{total}} at {{commit}}")
            ),
            when("later").then(say("{{second}}, {{all}}")),
        )
    )
    talk.user("go")
    shown = talk.next(batch, " abcdef1 Paint \n")
    assert shown.calls[0].arguments == {"second": "b-2", "total": 2, "text": "1 of 2 at abcdef1"}
    talk.next("ok")
    assert told(talk.user("later")) == "b-2, abcdef1 Paint"


@pytest.mark.parametrize("result", ["no JSON", "{ broken", '{"beads": []}', '{"beads": {"id": 1}}', "[" * 100_000])
def test_a_value_that_a_result_does_not_have_ends_the_turn_with_a_sentence(result: str) -> None:
    talk = Talk(script("s", when().then(call("t", {"bead": keep("beads.0.id")})).then(call("u", bead="{{bead}}"))))
    talk.user("go")
    played = talk.next(result)
    assert (played.text, played.calls) == (
        "(The script cannot go on: {{bead}} has no value in this conversation.)",
        (),
    )


def test_what_kilo_adds_to_a_message_is_not_looked_at() -> None:
    talk = Talk(script("s", when("barn").then(say("no")), when("^go\\s*$").then(say("yes"))))
    assert told(talk.user("go\n<environment_details>\n/home/barn\n</environment_details>")) == "yes"


def test_a_request_without_tools_gets_a_title() -> None:
    """kilo asks so for the title of a session."""
    assert play(script("s", when().then(say("x"))), {"messages": [{"role": "user", "content": "go"}]}) == Played(
        text=TITLE
    )


def test_the_same_request_has_the_same_answer_whoever_is_asked_and_after_whatever() -> None:
    """A script has no memory: another process goes on in the middle of a turn."""
    talk = Talk(script("s", when().then(bash("a")).then(say("two"))))
    talk.user("go")
    second = talk.next("")
    other = Talk(Script.model_validate_json(talk.script.model_dump_json()))
    other.body = talk.body
    assert [other.played(), other.played()] == [second, second]


@pytest.mark.parametrize(
    "messages",
    [[], [1, None, {"role": "user"}], [{"role": "tool"}], [{"role": "assistant", "tool_calls": [1, {"id": None}]}],
     [{"role": "user", "content": [1, {"text": 2}, {}]}], [{"role": 7}]],
)  # fmt: skip
def test_messages_of_a_wrong_shape_are_no_error(messages: list[object]) -> None:
    talk = Talk(script("s", when("go").then(say("x"))))
    talk.body["messages"] = messages
    assert talk.played() is None


def test_an_error_comes_as_often_as_it_says_and_then_the_answer() -> None:
    """Counted by what was said, without what kilo adds: the time of day."""
    played = script("s", when().then(answer(fail(429, "slow down", times=2), say("at last"))))
    talk, failures = Talk(played), Failures()
    first = talk.user("go\n<environment_details>12:00</environment_details>")
    assert first is not None
    assert first.error == Failure(status=429, message="slow down", times=2)
    assert told(first) == "at last"
    failed = [failures.fails(talk.body, first.error)]
    talk.body["messages"][1]["content"] = "go\n<environment_details>12:01</environment_details>"
    failed += [failures.fails(talk.body, first.error) for _ in range(3)]
    assert failed == [True, True, False, False]
    always = Failure(status=500)
    assert all(failures.fails(talk.body, always) for _ in range(5))
