"""The file of a script: what is taken, and the sentence that refuses it with the place where it is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gastown.hall.stand_in.script import ScriptUnusable, parse_script, read_script
from gastown.testing.script import answer, bash, call, fail, keep, say, script, when, write


def of(*turns: dict[str, Any]) -> str:
    return json.dumps({"format": 1, "name": "s", "turns": turns})


async def test_what_the_helpers_build_is_read_back_from_its_file(tmp_path: Path) -> None:
    """A test and `--script` speak of the same script."""
    built = script(
        "bad models",
        when("(?P<bead>b-\\d)", role="polecat", times=1)
        .then(say("hm", seconds=2, cost=0.5), bash("true", {"all": keep(), "id": keep("a.0", pattern="x")}))
        .then(call("gt_done", branch="main"), call("gt_done", branch="{{bead}}"))
        .then(answer(fail(429, times=2), say("{{all}}")))
        .then(fail(402)),
    )
    assert await read_script(write(built, tmp_path / "s.json")) == built


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "is not JSON: Expecting property name enclosed in double quotes at line 1, column 2"),
        ("[" * 100_000, "is nested too deeply"),
        ('{"format": 2, "name": "s", "turns": []}', "format: input should be 1"),
        ('{"name": "s", "turns": []}', "format: field required"),
        (of({"answers": []}), "turns[0].answers: tuple should have at least 1 item after validation, not 0"),
        (of({"answers": [{}], "rôle": 1}), "turns[0].rôle: extra inputs are not permitted"),
        (
            of({"answers": [{}], "role": "boss"}),
            "turns[0].role: input should be 'mayor', 'polecat', 'refinery', 'triage' or 'rig'",
        ),
        (
            of({"answers": [{}]}, {"message": "(", "answers": [{}]}),
            "turns[1].message: not a regular expression: missing ), unterminated subpattern at position 0",
        ),
        (of({"answers": [{"calls": [{}]}]}), "turns[0].answers[0].calls[0].tool: field required"),
        (
            of({"answers": [{}, {"text": "{{x}}"}]}),
            (
                "turns[0].answers[1]: nothing gives {{x}} a value, "
                "neither a group of a message's pattern nor a call's keep"
            ),
        ),
        (
            of({"answers": [{"error": {"status": 200}}]}),
            "turns[0].answers[0].error.status: input should be greater than or equal to 400",
        ),
        (
            of({"answers": [{"error": {"status": 500}, "text": "x"}]}),
            "turns[0].answers[0]: an error without times has neither a text nor calls: they would never be used",
        ),
        (
            '{"format": 1, "name": "s", "turns": [{"answers": [{"seconds": NaN}]}]}',
            "turns[0].answers[0].seconds: input should be a finite number",
        ),
    ],
)  # fmt: skip
def test_a_wrong_script_is_refused_with_the_place_that_is_wrong(text: str, sentence: str) -> None:
    with pytest.raises(ScriptUnusable) as refused:
        parse_script(text, "s.json")
    is_no_json = sentence.startswith("is ")
    assert str(refused.value) == f"the script s.json {'' if is_no_json else 'cannot be played: '}{sentence}"


async def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """One that is not there, and one that is no text."""
    with pytest.raises(ScriptUnusable, match=r"none\.json cannot be read: No such file"):
        await read_script(tmp_path / "none.json")
    (tmp_path / "odd.json").write_bytes(b"\xff")
    with pytest.raises(ScriptUnusable, match=r"odd\.json is not a text in UTF-8"):
        await read_script(tmp_path / "odd.json")
