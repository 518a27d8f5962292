"""Logging: one JSON object a line on stderr, event names `noun.verb`, no credential in any of them.

That none gets there is the affair of `contract/secret.py`; what is here is the second line, for what came from
outside as plain text: the last words of a process, an address, an answer.
"""

from __future__ import annotations

import base64
import json
import logging
import re
import sys
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from typing import Any, TextIO
from urllib.parse import quote, quote_plus

import structlog

from gastown.contract.secret import Secret

__all__ = ["LiveRedactor", "RedactingFormatter", "Redactor", "configure", "redacted"]

_SHAPES = re.compile(
    r"eyJ[\w-]{5,}\.[\w-]+\.[\w-]*"  # a JWT
    r"|(?:gh[pousr]_|github_pat_|gl[a-z]{1,5}-)[\w-]{10,}(?:\.[\w-]+)*"  # GitHub's and GitLab's tokens
    r"|(?<![\w-])sk-[\w-]{16,}"
    r"|\bgt[bs]\.[\w.-]{10,}"  # an agent's bearer, a kilo server's password
    r"|(?<=://)[^/\s]+(?=@)"  # user and password in a URL
    r"|(?<=x-access-token:)[^\s@/\"']+|(?<=oauth2:)[^\s@/\"']+"
    r"|(?<=[Bb]earer )[^\s\"'\\]+|(?<=[Bb]asic )[\w+/-]{8,}={0,2}"
    r"|(?<=TOKEN=)[^\s\"']+|(?<=PASSWORD=)[^\s\"']+|(?<=SECRET=)[^\s\"']+"
)
_SIGNS = (
    *("eyJ", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "gl", "sk-", "gtb.", "gts.", "@"),
    *("x-access-token:", "oauth2:", "earer ", "asic ", "TOKEN=", "PASSWORD=", "SECRET="),
)
"""One of them is in every text that `_SHAPES` finds something in; looking for them is many times faster."""
_MASK = "[redacted]"
_SHORTEST = 6
_BASE64 = r"[A-Za-z0-9+/_=-]*"


class Redactor:
    """Takes out of texts what is known to be secret, also when it is encoded, and what has a credential's shape.

    Encodings: of a URL, of JSON, of `repr`, and Base64 with whatever before and behind, as `Basic` has it. One of
    less than six characters is left: it would be a part of common words.
    """

    def __init__(self, secrets: Iterable[Secret] = ()) -> None:
        texts = {text for secret in secrets if len(text := secret.reveal()) >= _SHORTEST}
        plain = {form for text in texts for form in _spellings(text)}
        encoded = {form for text in texts for form in _base64_cores(text)}
        # The longest first: a secret may be a part of another one.
        self._plain = sorted(plain, key=len, reverse=True)
        self._encoded = sorted(encoded, key=len, reverse=True)
        self._forms = (*self._plain, *self._encoded)

    def remedy(self, text: str) -> Callable[[str], str] | None:
        """What makes each part of `text` fit to be seen; None when there is nothing to take out."""
        for form in self._forms:  # not any(), which takes twice as long: this is done for every line
            if form in text:
                return self
        return _without_shapes if any(sign in text for sign in _SIGNS) else None

    def known(self, text: str) -> str:
        """`text` without what is known to be secret; shapes stay."""
        for form in self._plain:
            if form in text:
                text = text.replace(form, _MASK)
        for form in self._encoded:
            if form in text:
                text = re.sub(f"{_BASE64}{re.escape(form)}{_BASE64}", _MASK, text)
        return text

    def __call__(self, text: str) -> str:
        return _without_shapes(self.known(text))


def _without_shapes(text: str) -> str:
    return _SHAPES.sub(_MASK, text)


class LiveRedactor:
    """The redactor of this moment. `secrets` gives what is secret now, in the same order while nothing changes."""

    def __init__(self, secrets: Callable[[], Iterable[Secret]]) -> None:
        self._secrets = secrets
        self._known: tuple[Secret, ...] = ()
        self._redactor = Redactor()

    def now(self) -> Redactor:
        known = tuple(self._secrets())
        if known != self._known:  # by identity first: this is done for every line
            self._known, self._redactor = known, Redactor(known)
        return self._redactor


def redacted(text: str, secrets: Iterable[Secret] = ()) -> str:
    """`text` without `secrets` and without anything that has the shape of a credential."""
    return Redactor(secrets)(text)


class RedactingFormatter(logging.Formatter):
    """For the logging of the standard library, its tracebacks included."""

    def __init__(self, form: str, secrets: Iterable[Secret] = ()) -> None:
        super().__init__(form)
        self._redactor = Redactor(secrets)

    def format(self, record: logging.LogRecord) -> str:
        return self._redactor(super().format(record))


def configure(secrets: Callable[[], Iterable[Secret]], stream: TextIO | None = None) -> None:
    """Set structlog up for this process. `secrets` gives the values that are live when a line is written."""
    live = LiveRedactor(secrets)

    def redact(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        texts: list[str] = []
        line: dict[str, Any] = _plain(event, texts)
        remedy = live.now().remedy("\n".join(texts))
        return line if remedy is None else dict(_clean(line, remedy))

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            redact,
            structlog.processors.JSONRenderer(sort_keys=False),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(stream or sys.stderr),
        cache_logger_on_first_use=False,
    )


def _plain(value: Any, texts: list[str]) -> Any:
    """`value` as JSON has it; every text in it goes into `texts`, too."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, dict):
        return {_plain(key, texts) if isinstance(key, str) else key: _plain(v, texts) for key, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item, texts) for item in value]
    text = value if isinstance(value, str) else _said_by(value)
    texts.append(text)
    return text


def _said_by(value: object) -> str:
    try:
        return str(value)
    except Exception as error:  # noqa: BLE001 - a secret refuses, and others may; their line is written all the same
        return f"<{type(value).__name__}: {type(error).__name__}>"


def _clean(value: Any, remedy: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return remedy(value)
    if isinstance(value, dict):
        return {remedy(key) if isinstance(key, str) else key: _clean(item, remedy) for key, item in value.items()}
    return [_clean(item, remedy) for item in value] if isinstance(value, list) else value


def _spellings(text: str) -> Iterator[str]:
    """The text itself, and how a URL, JSON and Python write it."""
    yield text
    escaped = quote(text, safe="", errors="surrogatepass")
    yield escaped
    yield re.sub("%[0-9A-F]{2}", lambda found: found[0].lower(), escaped)
    yield quote(text, errors="surrogatepass")
    yield quote_plus(text, errors="surrogatepass")
    yield json.dumps(text)[1:-1]
    yield json.dumps(text, ensure_ascii=False)[1:-1]
    yield repr(text)[1:-1]


def _base64_cores(text: str) -> Iterator[str]:
    """What of the text is seen in the Base64 of something longer: it depends on where a group of three begins."""
    content = text.encode("utf-8", "surrogatepass")
    for before in range(3):
        bits = (before * 8, (before + len(content)) * 8)
        first, last = -(-bits[0] // 6), bits[1] // 6  # the characters that hold nothing but bits of the text
        whole = base64.b64encode(b"\0" * before + content).decode()[first:last]
        yield whole
        yield whole.replace("+", "-").replace("/", "_")
