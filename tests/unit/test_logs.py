"""Log lines are JSON objects, and no credential is in any of them."""

from __future__ import annotations

import base64
import json
import logging
import re
from collections.abc import Callable, Iterator
from io import StringIO
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
import structlog
from hypothesis import example, given
from hypothesis import strategies as st

from gastown import logs
from gastown.contract.secret import Secret
from gastown.kilo.client import new_password
from gastown.logs import RedactingFormatter, Redactor, SecretBook, redacted
from gastown.testing.worker import token_until


@pytest.fixture
def stream() -> Iterator[StringIO]:
    stream = StringIO()
    logs.configure(lambda: [Secret("live-secret"), Secret("short")], stream)
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
        pytest.param(f"of a server: {new_password().reveal()}!", "of a server: [redacted]!", id="a new password"),
        ("a live-secret here", "a [redacted] here"),
        ("https://just-a-token@git.test/r.git", "https://[redacted]@git.test/r.git"),
        ("https://me:p@ss@git.test/r.git", "https://[redacted]@git.test/r.git"),
        (
            "x-access-token:abc@git.test and oauth2:def@gl.test",
            "x-access-token:[redacted]@git.test and oauth2:[redacted]@gl.test",
        ),
        ("Authorization: Basic dXNlcjpwYXNz", "Authorization: Basic [redacted]"),
        ("glpat-0123456789ab.01.0a1b2c3", "[redacted]"),
        ("key sk-ant-0123456789abcdef0", "key [redacted]"),
        ("gtb.0123456789abcdef.abc-DEF_1", "[redacted]"),
        ("GIT_TOKEN=abc DB_PASSWORD=def", "GIT_TOKEN=[redacted] DB_PASSWORD=[redacted]"),
        ("nothing to hide: http://host:80/a@b", "nothing to hide: http://host:80/a@b"),
        ("task-force-of-many-people, desk-lamp-with-a-bulb", "task-force-of-many-people, desk-lamp-with-a-bulb"),
        ("", ""),
    ],
)
def test_what_is_or_looks_like_a_credential_is_masked(text: str, expected: str) -> None:
    assert redacted(text, [Secret("live-secret")]) == expected


def test_a_secret_too_short_to_be_one_does_not_mask_common_words() -> None:
    assert redacted("a short word", [Secret("short")]) == "a short word"


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


SECRETS = st.text(min_size=6, max_size=60).filter(lambda text: text not in "[redacted]" and text.strip())
WAYS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "in a URL": lambda secret: quote(secret, safe="", errors="surrogatepass"),
    "in a path": lambda secret: quote(secret, errors="surrogatepass"),
    "in a form": lambda secret: quote_plus(secret, errors="surrogatepass"),
    "in a URL, with small letters": lambda secret: re.sub(
        "%..", lambda found: found[0].lower(), quote(secret, safe="", errors="surrogatepass")
    ),
    "in JSON": lambda secret: json.dumps({"key": secret}),
    "in JSON of UTF-8": lambda secret: json.dumps({"key": secret}, ensure_ascii=False),
    "in a repr": lambda secret: repr([secret]),
}


@given(
    SECRETS,
    st.text(max_size=20),
    st.sampled_from(sorted(WAYS)),
    st.sampled_from(["plain", "deep", "key", "error"]),
)
@example("one/two three", "x", "in a path", "plain")
@example("one/two three", "x", "in a form", "plain")
@example('live\\"ly', "x", "in JSON", "deep")
def test_a_secret_in_any_spelling_anywhere_is_not_in_the_line(
    secret: str, around: str, way: str, where: str
) -> None:
    stream = StringIO()
    logs.configure(lambda: [Secret(secret)], stream)
    said = f"{around}{WAYS[way](secret)}{around}"
    log = structlog.get_logger()
    match where:
        case "plain":
            log.info("e", v=said)
        case "deep":
            log.info("e", v=[{"a": ({"b": said},)}])
        case "key":
            log.info("e", v={said: 1})
        case _:
            log.info("e", v=ValueError(said))
    structlog.reset_defaults()
    texts = "\n".join(_texts(json.loads(stream.getvalue())["v"]))
    form = {"in JSON": 9, "in JSON of UTF-8": 9}.get(way)
    written = WAYS[way](secret)
    core = written[form:-2] if form else written[2:-2] if way == "in a repr" else written
    assert core not in texts.replace("[redacted]", "\0")


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


@given(st.text(max_size=12), SECRETS, st.text(max_size=5))
def test_the_base64_of_a_basic_login_is_masked_whole(user: str, secret: str, rest: str) -> None:
    """Also without the word Basic before it, at each of the three places where a group of three may begin."""
    login = f"{user}:{secret}{rest}".encode("utf-8", "surrogatepass")
    for encoded in (base64.b64encode(login).decode(), base64.urlsafe_b64encode(login).decode()):
        assert redacted(f"sent <{encoded}> to it", [Secret(secret)]) == "sent <[redacted]> to it"


def test_a_value_that_has_no_text_does_not_cost_the_line(stream: StringIO) -> None:
    line = logged(stream, value=Secret("live-secret"), more=[Secret("other-secret")])
    assert line["value"] == "<Secret: TypeError>"
    assert line["more"] == ["<Secret: TypeError>"]


def test_an_exception_group_hides_no_secret(stream: StringIO) -> None:
    try:
        raise ExceptionGroup("several", [ValueError("live-secret"), KeyError({"Bearer abcdef": "live-secret"})])
    except ExceptionGroup:
        structlog.get_logger().exception("thing.failed")
    assert "KeyError" in stream.getvalue()
    assert "live-secret" not in stream.getvalue()
    assert "abcdef" not in stream.getvalue()


def test_a_secret_that_is_a_part_of_another_leaves_nothing_of_it() -> None:
    assert redacted("abcdef-ghijkl", [Secret("abcdef"), Secret("abcdef-ghijkl")]) == "[redacted]"


def test_the_standard_librarys_log_is_redacted_with_its_tracebacks() -> None:
    stream = StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(RedactingFormatter("%(levelname)s %(message)s", lambda: [Secret("live-secret")]))
    record_to = logging.getLogger(f"{__name__}.apart")
    record_to.propagate = False
    record_to.addHandler(handler)
    try:
        raise ValueError("with live-secret")
    except ValueError:
        record_to.exception("%s and Bearer %s", "live-secret", "abcdef")
    assert "ValueError" in stream.getvalue()
    assert "live-secret" not in stream.getvalue()
    assert "abcdef" not in stream.getvalue()


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
    stream, live = StringIO(), [Secret("first-secret")]
    logs.configure(lambda: live, stream)
    live.append(Secret("second-secret"))
    structlog.get_logger().info("thing.happened", value="first-secret second-secret")
    structlog.reset_defaults()
    assert "secret" not in stream.getvalue().replace("[redacted]", "")


def test_a_book_knows_the_secrets_of_each_holder_until_it_is_forgotten() -> None:
    """Equal ones of two holders stay until both are."""
    book = SecretBook()
    book.hold("a", [Secret("swordfish-1"), Secret("shared-pass-phrase")])
    book.hold("b", [Secret("shared-pass-phrase")])
    redactor = Redactor((), [book])
    assert redactor("swordfish-1 and shared-pass-phrase") == "[redacted] and [redacted]"
    book.forget("a")
    assert redactor("swordfish-1 and shared-pass-phrase") == "swordfish-1 and [redacted]"
    book.hold("b", [Secret("another-one")])
    assert redactor("shared-pass-phrase, another-one") == "shared-pass-phrase, [redacted]"
    assert [secret.reveal() for secret in book.secrets()] == ["another-one"]


@pytest.mark.parametrize("text", ["pa$$ wörd/1", 'qu"ote\\d-secret'])
def test_a_book_finds_a_secret_however_it_is_written(text: str) -> None:
    book = SecretBook()
    book.hold("a", [Secret(text)])
    redactor = Redactor((), [book])
    for written in (
        text,
        quote(text, safe=""),
        json.dumps(text),
        base64.b64encode(f"user:{text}".encode()).decode(),
    ):
        assert redactor.remedy(written) is not None
        assert "[redacted]" in redactor(written)
        assert text not in redactor(written)


def test_to_search_a_line_takes_no_look_at_each_of_ten_thousand_secrets() -> None:
    """B8: the forms of other secrets are not even touched."""
    book = SecretBook()
    for number in range(2_000):
        book.hold(str(number), [Secret(f"{number:05}-secret-of-an-agent")])
    looked: list[str] = []

    class Line(str):
        __slots__ = ()

        def __contains__(self, part: str) -> bool:
            looked.append(part)
            return super().__contains__(part)

    assert [form.text for form in book.found_in(Line("it said 01234-secret-of-an-agent twice"))] == [
        "01234-secret-of-an-agent"
    ]
    assert len(looked) < 50
