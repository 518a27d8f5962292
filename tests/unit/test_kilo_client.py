"""What one answer of a kilo server can do to us, and to the others. Behind each stands an agent."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator, Iterator

import httpx2
import pytest

from gastown.contract.secret import Secret
from gastown.kilo.client import MOST_BYTES, Endpoint, KiloClient, http_client
from gastown.kilo.errors import KiloError, KiloGarbled, KiloRefused


class Answers(httpx2.AsyncBaseTransport):
    """Every request is answered with the same, and counted piece by piece."""

    def __init__(self, content: Iterator[bytes], status: int = 200, **headers: str) -> None:
        self.content, self.status, self.headers = content, status, headers
        self.asked: list[httpx2.Request] = []
        self.taken = 0

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append(request)

        async def pieces() -> AsyncIterator[bytes]:
            for piece in self.content:
                self.taken += len(piece)
                yield piece

        headers = {name.replace("_", "-"): value for name, value in self.headers.items()}
        return httpx2.Response(self.status, headers=headers, content=pieces())


def client_of(answers: Answers) -> KiloClient:
    http = http_client()
    http._transport = answers
    return KiloClient(http, Endpoint("http://127.0.0.1:4096", Secret("gts.secret")))


@pytest.mark.parametrize("status", [200, 500])
async def test_an_answer_without_an_end_is_read_to_the_limit_and_no_further(status: int) -> None:
    endless = Answers(iter(lambda: b"x" * 65536, b""), status)
    with pytest.raises(KiloGarbled, match=f"GET /session with more than {MOST_BYTES} bytes"):
        await client_of(endless).call("GET", "/session")
    assert endless.taken <= MOST_BYTES + 65536


async def test_an_endless_refusal_of_a_stream_is_read_to_the_limit_and_no_further() -> None:
    endless = Answers(iter(lambda: b"x" * 65536, b""), 500)
    with pytest.raises(KiloGarbled):
        async with client_of(endless).stream("/global/event"):
            pass
    assert endless.taken <= MOST_BYTES + 65536


@pytest.mark.parametrize("content", [b"<html>", b"\xff\xfe", b"[" * 100_000])
async def test_an_answer_that_is_not_json_is_an_error_of_kilo(content: bytes) -> None:
    with pytest.raises(KiloGarbled, match="POST /session/s/abort with something that is not JSON"):
        await client_of(Answers(iter([content]))).call("POST", "/session/s/abort", {})


async def test_a_refusal_that_is_not_json_is_still_a_refusal() -> None:
    with pytest.raises(KiloRefused, match="502 Error: \N{REPLACEMENT CHARACTER}nope"):
        await client_of(Answers(iter([b"\xffnope"]), 502)).call("GET", "/session")


@pytest.mark.parametrize(
    "content", [b"[]", b"5", b'{"name": "E", "data": []}', b'{"name": 5, "data": {"message": {}}}']
)
async def test_a_refusal_of_another_shape_is_still_a_refusal(content: bytes) -> None:
    """An error status is KiloRefused whatever its body, which is then told as it is."""
    with pytest.raises(KiloRefused) as refused:
        await client_of(Answers(iter([content]), 400)).call("GET", "/session")
    assert str(refused.value) == f"kilo answered GET /session with 400 Error: {content.decode()}"


async def test_a_small_answer_does_not_become_a_large_one() -> None:
    packed = Answers(iter([gzip.compress(b'"' + b"x" * 2 * MOST_BYTES + b'"')]), content_encoding="gzip")
    client = client_of(packed)
    with pytest.raises(KiloError, match="not JSON"):
        await client.call("GET", "/session")
    async with client.stream("/global/event"):
        pass
    assert {request.headers["accept-encoding"] for request in packed.asked} == {"identity"}


async def test_what_one_server_sets_as_a_cookie_is_sent_to_no_other() -> None:
    talks = Answers(iter([b"1"]), set_cookie="mine=1; Path=/")
    client = client_of(talks)
    for _ in range(2):
        talks.content = iter([b"1"])
        await client.call("GET", "/session")
    assert ["cookie" in request.headers for request in talks.asked] == [False, False]
