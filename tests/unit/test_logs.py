"""Log lines are JSON objects, and no credential is in any of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import StringIO
from typing import Any

import pytest
import structlog

from gastown import logs
from gastown.kilo.client import new_password
from gastown.logs import redacted
from tests.fakes.worker import token_until


@pytest.fixture
def stream() -> Iterator[StringIO]:
    stream = StringIO()
    logs.configure(lambda: ["live-secret", "short"], stream)
    yield stream
    structlog.reset_defaults()


def logged(stream: StringIO, **values: Any) -> dict[str, Any]:
    structlog.get_logger().info("thing.happened", **values)
    (line,) = stream.getvalue().splitlines()
    return json.loads(line)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"token {token_until(1)} end", "token [redacted] end"),
        ("Authorization: Bearer abc.DEF-1~2+3/4=", "Authorization: Bearer [redacted]"),
        ("authorization: bearer abc", "authorization: bearer [redacted]"),
        ("https://user:pass@git.test/r.git", "https://[redacted]@git.test/r.git"),
        ("https://x-access-token:ghs_0123456789ab@git.test", "https://[redacted]@git.test"),
        ("ghp_0123456789ab and glpat-0123456789ab", "[redacted] and [redacted]"),
        ("github_pat_0123456789ab", "[redacted]"),
        ("Authorization: Basic a2lsbzpwdw==", "Authorization: Basic [redacted]"),
        ("of an agent: gtb.0123456789abcdef.s-e_c", "of an agent: [redacted]"),
        (f"of a server: {new_password()}!", "of a server: [redacted]!"),
        ("a live-secret here", "a [redacted] here"),
        ("nothing to hide: http://host:80/a@b", "nothing to hide: http://host:80/a@b"),
        ("", ""),
    ],
)
def test_what_is_or_looks_like_a_credential_is_masked(text: str, expected: str) -> None:
    assert redacted(text, ["live-secret"]) == expected


def test_a_secret_too_short_to_be_one_does_not_mask_common_words() -> None:
    assert redacted("a short word", ["short"]) == "a short word"


@pytest.mark.parametrize(
    "value",
    [
        "live-secret",
        ["deep", {"in": ("side", "a live-secret here")}],
        {"live": {"er": "live-secret"}},
        {"live-secret"},
        ValueError("live-secret in an object"),
        b"live-secret",
    ],
)
def test_no_value_hides_a_secret(stream: StringIO, value: Any) -> None:
    logged(stream, value=value)
    assert "live-secret" not in stream.getvalue()


def test_no_key_of_a_dict_hides_a_secret(stream: StringIO) -> None:
    logged(stream, value={"live-secret": 1})
    assert "live-secret" not in stream.getvalue()


def test_an_exceptions_traceback_hides_no_secret(stream: StringIO) -> None:
    try:
        raise ValueError("with live-secret and eyJhbGciOi.eyJzdWIi.c2ln")
    except ValueError:
        structlog.get_logger().exception("thing.failed")
    text = stream.getvalue()
    assert "ValueError" in text
    assert "live-secret" not in text
    assert "eyJ" not in text


def test_plain_values_stay_what_they_are(stream: StringIO) -> None:
    line = logged(stream, number=3, ratio=0.5, flag=True, nothing=None, text="x", several=["a", 1])
    names = ("number", "ratio", "flag", "nothing", "text", "several")
    assert [line[name] for name in names] == [3, 0.5, True, None, "x", ["a", 1]]


def test_a_line_has_its_event_its_level_and_its_time(stream: StringIO) -> None:
    line = logged(stream)
    assert (line["event"], line["level"], line["timestamp"][-1]) == ("thing.happened", "info", "Z")


def test_debug_lines_are_left_out(stream: StringIO) -> None:
    structlog.get_logger().debug("thing.seen")
    assert stream.getvalue() == ""


def test_a_secret_that_becomes_live_later_is_masked_from_then_on() -> None:
    stream, live = StringIO(), ["first-secret"]
    logs.configure(lambda: live, stream)
    live.append("second-secret")
    structlog.get_logger().info("thing.happened", value="first-secret second-secret")
    structlog.reset_defaults()
    assert "secret" not in stream.getvalue().replace("[redacted]", "")
