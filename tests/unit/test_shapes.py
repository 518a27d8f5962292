"""What has the shape of a credential goes from a text, and nothing else does."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gastown.logs import Redactor, redacted

CREDENTIALS = [
    "<eyJhbGciOi.eyJzdWIi.c2ln>", "token <eyJhbGciOi.eyJzdWIi.> end",
    "<ghp_0123456789ab>", "<gho_0123456789ab>", "<ghu_0123456789ab>", "<ghs_0123456789ab>", "<ghr_0123456789ab>",
    "<github_pat_0123456789ab>", "my_<ghp_0123456789ab>",
    "<glpat-0123456789ab>", "<gloas-0123456789ab>", "<gldt-0123456789ab>", "<glrt-0123456789ab>",
    "<glrtr-0123456789ab>", "<glcbt-0123456789ab>", "<glptt-0123456789ab>", "<glft-0123456789ab>",
    "<glimt-0123456789ab>", "<glagent-0123456789ab>", "<glwt-0123456789ab>", "<glsoat-0123456789ab>",
    "<glffct-0123456789ab>", "<glpat-0123456789ab.01.0a1b2c3>",
    "<sk-0123456789abcdef>", "<sk-ant-api03-Abcdefghijk>", "<gtb.0123456789ab>", "<gts.0123456789ab>",
    r"first line\n<ghp_0123456789ab>", "a%20<glpat-0123456789ab>", "\x1b[0;31m<eyJhbGciOi.eyJzdWIi.c2ln>\x1b[0m",
    "https://<u:p>@h/", "https://<u:p@ss>@h/", "https://<it's,one>@h/", "ssh://<git:p>@h/",
    "x-access-token:<abc>", "oauth2:<abc>@",
    "Bearer <auth0.of.abc>", "Bearer <is-abc>",
    "Bearer <token-1>", "bearer <abc>", "BEARER <x>", "Bearer\t<x>", "Bearer  <x>",
    "Basic <dXNlcjpwYXNz>", "basic <dXNlcjpwYXNz>", "BASIC\t<a2lsbzpwdw==>",
    "PRIVATE-TOKEN: <abc>", "private-token:<abc>", "Job-Token: <abc>", "X-Api-Key: <abc>",
    "/ws?token=<abc>", "?after=1&access_token=<abc>", "/ws?ticket=<abc>", "--password=<abc>",
    "TOKEN=<abc>", "A_TOKEN=<b>", "A_PASSWORD=<b>", "A_SECRET=<b>", "API_KEY=<abc>", "api-key=<abc>",
    "AWS_SECRET_ACCESS_KEY=<abc>", "ZEN_KEY=<abc>", "DB_PASS=<abc>", "PGPASS=<abc>", "pass=<abc>", "passwd=<abc>",
    "MYSQL_PWD=<abc>", "GH_PAT=<abc>", "NPM_AUTH=<abc>", "PASSWORD=<a&b;c,d>",
    "TOKEN='<a b>'", 'TOKEN="<a b>" and more', """TOKEN="<it's one>" """, "TOKEN='<cut off>", "password='<.)>x>'",
    '{"token": "<a b>", "x": 1}', "{'password': '<a b>', 'x': 1}", 'api_key = "<a b>"',
    r'{\"access_token\": \"<a b>\"}',
]  # fmt: skip
"""Each has one between the first < and the last >."""

ORDINARY = [
    "single-threaded-server-fix", "toggle-dark-mode-button", "google-cloud-storage", "/tmp/triangle-mesh-viewer",
    "laughs_at_everything_here", "keyJockey-foo.bar.baz", "sk-translation-of-the-docs", "task-sk-0123456789abcdef",
    "gts.config.something.json", "task-force-of-many-people, desk-lamp-with-a-bulb",
    "remote: HTTP Basic: Access denied", "HTTP Basic authentication is not supported", "see basic src/main.py",
    "Not the bearer of an agent", "Authorization: Bearer <token>", "a bearer token is needed",
    "needs a bearer token.", "Bearer authentication,",
    'WWW-Authenticate: Bearer realm="https://h/v2", service="h"',
    "fatal: could not read Username for 'https://github.com': terminal prompts disabled",
    "fatal: could not read Password for 'https://github.com': No such device or address",
    "fatal: unable to access 'https://git.test/r.git/': The requested URL returned error: 403",
    "error: pathspec 'main' did not match any file(s) known to git",
    "ssh://git@github.com/o/r.git", "git@github.com:o/r.git", "http://host:80/a@b", "https://h?mail=a@b.test",
    '{"url":"https://h","user":"a@b"}', "https://h#a@b",
    "max_tokens=100", '"tokens": 5', "tokenizer=bert", "token: missing", "no token", "Password: ", "PWD=/srv/u",
    "compass=3", "key=value", "'token=' is missing", 'token=""', "secrets=3", "a passing test, 3 passed",
    "",
]  # fmt: skip


def spoken(text: str) -> str:
    """`text` as a process says it, without the marks."""
    before, after = text.split("<", 1)
    secret, rest = after.rsplit(">", 1)
    return before + secret + rest


@pytest.mark.parametrize("text", CREDENTIALS)
def test_no_form_of_a_credential_stays(text: str) -> None:
    assert redacted(spoken(text)) == re.sub("<.*>", "[redacted]", text)


@pytest.mark.parametrize("text", CREDENTIALS)
def test_no_shape_is_without_a_sign_that_makes_a_line_suspicious(text: str) -> None:
    remedy = Redactor().remedy(spoken(text))
    assert remedy is not None
    assert remedy(spoken(text)) == redacted(spoken(text))


@pytest.mark.parametrize("text", ORDINARY)
def test_text_that_only_resembles_one_stays(text: str) -> None:
    assert redacted(text) == text


def test_a_token_behind_its_variable_goes_with_its_scheme() -> None:
    assert redacted("TOKEN=Bearer abc") == "TOKEN=[redacted] [redacted]"


LOOKALIKES = [
    "single", "toggle", "google", "triangle", "gl", "glossary", "gltf-viewer", "desk", "task", "mask", "laughs",
    "highs", "sighs", "key", "monkey", "keyboard", "tokens", "passed", "compass", "secretary", "bearers", "basics",
    "eye", "author", "private-data", "origin", "main",
]  # fmt: skip
WORDS = st.one_of(
    st.sampled_from(LOOKALIKES),
    st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=12),
    st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=12).map(str.capitalize),
    st.integers(0, 10**12).map(str),
    st.sampled_from([text for text in ORDINARY if text.startswith(("fatal", "error", "remote"))]),
)


@given(st.lists(st.tuples(WORDS, st.sampled_from([" ", "-", "_", "/", ".", ", ", "\n", "@", ":"])), max_size=20))
@example([("single", "-"), ("threaded", "-"), ("server", "-"), ("fix", "/")])
def test_words_paths_branches_numbers_and_gits_errors_stay(parts: list[tuple[str, str]]) -> None:
    text = "".join(word + between for word, between in parts)
    assert redacted(text) == text


@given(
    st.lists(
        st.one_of(
            st.sampled_from([spoken(text) for text in CREDENTIALS]),
            st.sampled_from(
                ["Bearer", "PASS", "secret", "=", ": ", " ", "'", '"', "@", "://", "\u017fk", "abcdefgh12"]
            ),
            st.text(max_size=3),
        ),
        max_size=8,
    ),
    st.sampled_from([str, str.upper, str.lower, str.swapcase]),
)
@example(["Ba\u017fic", " ", "dXNlcjpwYXNz"], str)
def test_what_is_looked_for_first_misses_nothing(parts: list[str], case: type[str]) -> None:
    text = case("".join(parts))
    if redacted(text) != text:
        remedy = Redactor().remedy(text)
        assert remedy is not None
        assert remedy(text) == redacted(text)
