"""Bodies and the town's configuration in a header, as no well-meaning client would write them."""

from __future__ import annotations

import json
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gastown.contract.town import TownConfig
from gastown.control.app import ROUTES
from gastown.testing.clock import in_virtual_time, threads_in_place
from gastown.testing.town import open_fake_town, start_request
from tests.fuzz.budget import examples
from tests.fuzz.test_parsers import JSON

# A drain would be the end of it, and 503 is what the next one then gets.
WITH_BODY = [
    (route.method, route.path.replace("<agent_id>", "pole-1").replace("<pty_id>", "pty_1"), route.body)
    for route in ROUTES
    if route.body is not None and route.path != "/drain"
]
GOOD = start_request("pole-1") | {"token": "t", "context": "c", "nudge_id": "n", "systemPrompt": "s"}
KEYS = sorted({str(field.alias) for _, _, body in WITH_BODY for field in body.model_fields.values()})


def written(value: Any) -> bytes:
    """JSON as Python writes it: with NaN, with lone surrogates, with numbers of any length."""
    return json.dumps(value).encode()


OBJECTS = st.one_of(
    st.dictionaries(st.sampled_from(KEYS), JSON, max_size=6).map(lambda changes: GOOD | changes),
    st.dictionaries(st.text(max_size=6), JSON, max_size=3),
)
BODIES = st.one_of(
    st.binary(max_size=60),
    JSON.map(written),
    OBJECTS.map(written),
    st.builds(lambda value, cut: written(value)[:cut], OBJECTS, st.integers(0, 200)),
)
SURROGATES = st.text(alphabet=st.characters(categories=["Cs", "Ll"]), max_size=4)
CONFIGS = st.one_of(
    st.dictionaries(st.sampled_from(sorted(TownConfig.model_fields)), st.one_of(JSON, SURROGATES), max_size=4),
    st.builds(lambda variables: {"env_vars": variables}, st.dictionaries(SURROGATES, SURROGATES, max_size=3)),
    JSON,
)
HEADERS = st.one_of(
    CONFIGS.map(json.dumps),
    st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=60),
)


async def send(requests: list[tuple[tuple[str, str, Any], bytes]], headers: list[str], folder: Path) -> None:
    async with open_fake_town(folder) as town:
        assert (await town.start("pole-1")).status_code == 201
        for (method, path, _), content in requests:
            answer = await town.client.request(
                method, path, content=content, headers={"content-type": "application/json"}
            )
            assert answer.status_code < 500 or answer.json()["phase"], (method, path, content)
        for header in headers:
            said = {"x-town-config": header.strip().encode("latin-1")}
            assert (await town.client.post("/sync-config", headers=said)).status_code == 200
            assert (await town.client.get("/health", headers=said)).status_code == 200
            started = await town.start("mayor-1", headers=said)
            assert started.status_code in (201, 400), (header, started.text)
        assert town.logged("request.crashed") == []


@examples(25)
@given(
    st.lists(st.tuples(st.sampled_from(WITH_BODY), BODIES), max_size=12),
    st.lists(HEADERS, max_size=4),
)
def test_whatever_is_sent_is_answered_and_no_answer_is_a_crash(requests, headers) -> None:
    with tempfile.TemporaryDirectory() as name, threads_in_place():
        in_virtual_time(partial(send, requests, headers, Path(name)))
