"""Logging: one JSON object a line on stderr, event names `noun.verb`, no credential in any of them.

That none gets there is the affair of `contract/secret.py`; what is here is the second line, for what came from
outside as plain text: the last words of a process, an address, an answer.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import re
import sys
from collections import Counter as Multiset
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from functools import cache, partial
from itertools import chain
from typing import Any, NamedTuple, TextIO, cast
from urllib.parse import quote, quote_plus

import structlog

from gastown.contract.secret import Secret
from gastown.log_sink import LineSink

__all__ = [
    "LiveRedactor",
    "RedactingFormatter",
    "Redactor",
    "SecretBook",
    "complain",
    "configure",
    "dropped_lines",
    "redacted",
]

log = structlog.get_logger()

_EDGE = r"(?:(?<![A-Za-z0-9])|(?<=\\[nrt])|(?<=%[0-9A-Fa-f]{2})|(?<=[\[;]\dm)|(?<=[\[;]\d\dm))"
"""Where a word begins, also after what stands for a line's end, a character of a URL or a colour."""
_GITHUB = ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_")
_GITLAB = (
    *("glpat-", "gloas-", "gldt-", "glrt-", "glrtr-", "glcbt-", "glptt-", "glft-", "glimt-", "glagent-"),
    *("glwt-", "glsoat-", "glffct-"),
)
_HEADER = r"(?:(?:private|job|deploy|auth|gitlab)-token|x-api-key)[ \t]*:[ \t]*"
_NAME = (
    r"(?:(?i:token|secret|passw(?:or)?d|passphrase|(?<![a-z])pass|(?:api|access|private|secret)[_-]?key)"
    r"|PASS|_(?:KEY|PAT|PWD|AUTH))"
)
_ENGLISH = r"(?!<|realm=|(?i:auth(?:entication|orization)?|is|of|scheme|tokens?)(?![\w~+/=-]|\.\w))"
_NAMES = ("token", "secret", "pass", "key", "_pat", "_pwd", "_auth")
_QUOTE = r"""(?P<quote>\\*["'])(?![,.:;)\]}"'\\]*(?:\s|\Z))"""

_SHAPES = tuple(
    (signs, re.compile(shape))
    for *signs, shape in (
        ("@", r"(://)(?!git@)[^/\s\"<>?#]+(?=@)"),  # user and password in a URL
        ("x-access-token:", "oauth2:", rf"({_EDGE}(?:x-access-token|oauth2):)[^\s@/\"']+"),
        ("bearer", rf"((?i:{_EDGE}bearer)[ \t]+){_ENGLISH}[^\s\"'\\]+"),
        ("basic", rf"((?i:{_EDGE}basic)[ \t]+)(?=[\w+/-]+[A-Z=])[\w+/-]{{8,}}={{0,2}}"),
        ("eyj", rf"({_EDGE})eyJ[\w-]{{5,}}\.[\w-]+\.[\w-]*"),  # a JWT
        (*_GITHUB, *_GITLAB, rf"({_EDGE})(?:{'|'.join(_GITHUB + _GITLAB)})[\w-]{{10,}}(?:\.[\w-]+)*"),
        ("sk-", r"((?<![\w-]))sk-(?=[\w-]*[A-Z\d])[\w-]{16,}"),  # a gateway's key
        # An agent's bearer, a kilo server's password.
        ("gtb.", "gts.", rf"({_EDGE})gt[bs]\.(?=[\w.-]*[A-Z\d])[\w.-]{{10,}}"),
        ("-token", "x-api-key", rf"((?i:{_HEADER}))[^\s\"']+"),
        ("ticket=", r"((?i:[?&]ticket)=)[^\s\"']+"),
        # What is called like a credential: TOKEN=…, and "token": "…" or token = "…".
        (*_NAMES, rf"({_NAME}=)[^\s\"']+"),
        (*_NAMES, rf"({_NAME}(?:\\*[\"'])?[ \t]*[:=][ \t]*{_QUOTE})(?:(?!(?P=quote))[^\n])+"),
    )
)
"""What credentials look like; the first group stays. Before it, what is in every text with one of them, in small
letters: to look for that first is many times faster."""
_SIGNS = tuple(dict.fromkeys(sign for signs, _ in _SHAPES for sign in signs))
_MASK = "[redacted]"
_SHORTEST = 6
_BASE64 = r"[A-Za-z0-9+/_=-]*"


class _Form(NamedTuple):
    """One way to write a secret; `encoded` as Base64."""

    text: str
    encoded: bool


class SecretBook:
    """The secrets of holders that come and go, of whom there may be many thousands.

    How long it takes to search a text does not grow with their number: every way to write a secret is found by its
    first six characters. Equal secrets of many holders are kept once.
    """

    def __init__(self) -> None:
        self._held: dict[str, tuple[Secret, ...]] = {}
        self._texts: Multiset[str] = Multiset()
        self._forms: dict[str, Multiset[_Form]] = {}

    def hold(self, holder: str, secrets: Iterable[Secret]) -> None:
        """From now on these are the secrets of `holder`, in place of earlier ones."""
        self.forget(holder)
        held = self._held[holder] = tuple(secrets)
        for text in (secret.reveal() for secret in held):
            self._texts[text] += 1
            if self._texts[text] == 1:
                for form in _forms_of(text):
                    self._forms.setdefault(form.text[:_SHORTEST], Multiset())[form] += 1

    def forget(self, holder: str) -> None:
        """`holder` has none any more."""
        for text in (secret.reveal() for secret in self._held.pop(holder, ())):
            self._texts[text] -= 1
            if not self._texts[text]:
                del self._texts[text]
                for form in _forms_of(text):
                    self._drop(form)

    def secrets(self) -> Iterator[Secret]:
        """All of them, those of the earliest holder first."""
        return chain.from_iterable(self._held.values())

    def found_in(self, text: str) -> list[_Form]:
        """Each way of writing a secret that is in `text`."""
        if not self._forms:
            return []
        heads = self._forms.keys() & {text[at : at + _SHORTEST] for at in range(len(text) - _SHORTEST + 1)}
        return [form for head in heads for form in self._forms[head] if form.text in text]

    def _drop(self, form: _Form) -> None:
        head = form.text[:_SHORTEST]
        forms = self._forms[head]
        forms[form] -= 1
        if not forms[form]:
            del forms[form]
        if not forms:
            del self._forms[head]


def _forms_of(text: str) -> set[_Form]:
    """None of a text that is too short to be told from others."""
    if len(text) < _SHORTEST:
        return set()
    plain = {_Form(form, encoded=False) for form in _spellings(text)}
    return plain | {_Form(form, encoded=True) for form in _base64_cores(text)}


class Redactor:
    """Takes out of texts what is known to be secret, also when it is encoded, and what has a credential's shape.

    Encodings: of a URL, of JSON, of `repr`, and Base64 with any text around it, as `Basic` has it. One of
    less than six characters is left: it would be a part of common words. What is in `books` is secret, too.
    """

    def __init__(self, secrets: Iterable[Secret] = (), books: Iterable[SecretBook] = ()) -> None:
        self._books = tuple(books)
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
        for book in self._books:
            if book.found_in(text):
                return self
        folded = text.casefold()
        for sign in _SIGNS:
            if sign in folded:
                return partial(_without, _shapes_in(folded))
        return None

    def known(self, text: str) -> str:
        """`text` without what is known to be secret; shapes stay."""
        plain, encoded = self._plain, self._encoded
        if found := [form for book in self._books for form in book.found_in(text)]:
            plain = sorted({*plain, *(form.text for form in found if not form.encoded)}, key=len, reverse=True)
            encoded = sorted({*encoded, *(form.text for form in found if form.encoded)}, key=len, reverse=True)
        for form in plain:
            if form in text:
                text = text.replace(form, _MASK)
        for form in encoded:
            if form in text:
                text = re.sub(f"{_BASE64}{re.escape(form)}{_BASE64}", _MASK, text)
        return text

    def __call__(self, text: str) -> str:
        text = self.known(text)
        return _without(_shapes_in(text.casefold()), text)


def _shapes_in(folded: str) -> list[re.Pattern[str]]:
    """Those that a text whose letters are `folded` may have, or a part of it."""
    return [shape for signs, shape in _SHAPES if any(sign in folded for sign in signs)]


def _without(shapes: Iterable[re.Pattern[str]], text: str) -> str:
    for shape in shapes:
        text = shape.sub(_masked, text)
    return text


def _masked(found: re.Match[str]) -> str:
    return f"{found[1]}{_MASK}"


class LiveRedactor:
    """The redactor of this moment. `secrets` gives what is secret now, in the same order while nothing changes.

    It is asked at every line, so those of the agents, who may be thousands, come in `books`.
    """

    def __init__(self, secrets: Callable[[], Iterable[Secret]], books: Iterable[SecretBook] = ()) -> None:
        self._secrets = secrets
        self._books = tuple(books)
        self._known: tuple[Secret, ...] = ()
        self._redactor = Redactor((), self._books)

    def now(self) -> Redactor:
        known = tuple(self._secrets())
        if known != self._known:  # by identity first: this is done for every line
            self._known, self._redactor = known, Redactor(known, self._books)
        return self._redactor


def redacted(text: str, secrets: Iterable[Secret] = ()) -> str:
    """`text` without `secrets` and without anything that has the shape of a credential."""
    return Redactor(secrets)(text)


class RedactingFormatter(logging.Formatter):
    """For the logging of the standard library, its tracebacks included. `secrets` gives what is secret now."""

    def __init__(self, form: str, secrets: Callable[[], Iterable[Secret]]) -> None:
        super().__init__(form)
        self._live = LiveRedactor(secrets)

    def format(self, record: logging.LogRecord) -> str:
        return self._live.now()(super().format(record))


class _OfLibraries(logging.Handler):
    """What a library says by the logging of the standard library becomes a line of the log."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            log.warning(
                "library.warned", logger=record.name, level_name=record.levelname, text=self.format(record)
            )
        except Exception:  # noqa: BLE001 - a library's own mistake in a message; the logging module swallows it, too
            log.warning("library.warned", logger=record.name, level_name=record.levelname, text=record.msg)


def complain(text: str) -> None:
    """Write a line for a person to stderr, after the log's."""
    stream = _stderr()
    stream.write(f"{text}\n")
    stream.flush()


def dropped_lines() -> int:
    """How many lines of this process's log could not be written to stderr."""
    stream = _stderr()
    return stream.dropped if isinstance(stream, LineSink) else 0


def _stderr() -> TextIO | LineSink:
    """stderr without its waits and errors; as it is when it is no file of the system, as in a test."""
    if sys.stderr is None:  # closed by the caller: its number may be anything's by now
        return _sink(None)
    try:
        return _sink(sys.stderr.fileno())
    except (OSError, ValueError):
        return sys.stderr


@cache
def _sink(descriptor: int | None) -> LineSink:
    return LineSink(os.open(os.devnull, os.O_WRONLY) if descriptor is None else descriptor)


def configure(
    secrets: Callable[[], Iterable[Secret]], stream: TextIO | None = None, books: Iterable[SecretBook] = ()
) -> None:
    """Set structlog up for this process. `secrets` gives the values that are live when a line is written; what is
    in `books` is secret, too.

    Without a `stream` the log goes to stderr, and logging never raises or waits, whatever stderr is; then the
    warnings of libraries are in the log, too.
    """
    if stream is None:
        logging.lastResort = _OfLibraries(logging.WARNING)
    live = LiveRedactor(secrets, books)

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
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, stream or _stderr())),
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
