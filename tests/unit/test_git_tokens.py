"""Git tokens from the worker and from the platform: asked once, and None for whatever is no token."""

from __future__ import annotations

import gzip
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import structlog

from gastown.contract.secret import Secret
from gastown.contract.town import GitAuth, TownConfig
from gastown.testing.asgi import Answer, Asked, answer, app_of
from gastown.testing.network import open_network
from gastown.testing.worker import FakeWorker
from gastown.worker.client import WorkerClient
from gastown.worker.git_tokens import GitTokens
from gastown.worker.no_worker import NoWorker
from gastown.worker.tokens import Credentials, LiveCredentials

pytestmark = pytest.mark.virtual_time


@dataclass
class Platform:
    """What stands at KILO_CLOUD_URL."""

    reply: Answer = field(default_factory=lambda: answer({"github_token": "of-the-platform"}))
    asked: list[Asked] = field(default_factory=list)

    async def __call__(self, asked: Asked) -> Answer:
        self.asked.append(asked)
        return self.reply


@asynccontextmanager
async def tokens(
    platform: Platform, *, cloud_url: str | None = "http://cloud/", gateway: str | None = "kilo-token"
):
    async with open_network() as network:
        network.serve(app_of(platform), "cloud")
        worker = FakeWorker(network)
        live = LiveCredentials(Credentials(container_token=Secret("jwt")))
        client = network.client()
        known = WorkerClient(client, worker.url, "oak", live)
        yield (
            GitTokens(
                known, client, live, cloud_url=cloud_url, kilocode_token=Secret(gateway) if gateway else None
            ),
            worker,
            live,
        )


async def test_the_worker_renews_the_token_of_a_rig() -> None:
    async with tokens(Platform()) as (source, worker, _):
        worker.git_token = "new"
        assert await source.renewed("rig-1") == Secret("new")
        assert worker.asked("POST /refresh-git-token")[0].path == "/api/towns/oak/rigs/rig-1/refresh-git-token"


async def deny(worker: FakeWorker) -> None:
    worker.git_token = None


async def be_deaf(worker: FakeWorker) -> None:
    worker.delays["POST /refresh-git-token"] = 1000


async def be_away(worker: FakeWorker) -> None:
    worker.down()


async def talk_nonsense(worker: FakeWorker) -> None:
    worker.garbage.add("POST /refresh-git-token")


@pytest.mark.parametrize("trouble", [deny, be_deaf, be_away, talk_nonsense])
async def test_a_worker_that_has_none_is_a_warning_and_no_token(trouble: Any) -> None:
    async with tokens(Platform()) as (source, worker, _):
        await trouble(worker)
        with structlog.testing.capture_logs() as logs:
            assert await source.renewed("rig-1") is None
        assert [line["event"] for line in logs if line["log_level"] == "warning"] == ["git.token_not_renewed"]


async def test_the_platform_is_asked_with_the_gateway_token_of_the_town() -> None:
    platform = Platform()
    async with tokens(platform) as (source, _, live):
        assert await source.integration("int-1") == GitAuth(github_token="of-the-platform")
        live.replace_town(TownConfig(kilocode_token=Secret("of-the-town")))
        await source.integration("int-1")
    assert {(asked.method, asked.path) for asked in platform.asked} == {("POST", "/api/gastown/git-credentials")}
    assert [asked.headers["authorization"] for asked in platform.asked] == [
        "Bearer kilo-token",
        "Bearer of-the-town",
    ]
    assert platform.asked[0].json() == {"platform_integration_id": "int-1"}


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Answer(500, b"secret-of-the-platform"), "answered 500"),
        (Answer(404), "answered 404"),
        (Answer(200, b"<html>secret-of-the-platform"), "unusable answer"),
        (Answer(200, b'{"github_token": 7}'), "unusable answer"),
        (Answer(200, b""), "unusable answer"),
        (Answer(200, b"[" * 100_000), "unusable answer"),
        (Answer(200, gzip.compress(b"{}"), headers={"content-encoding": "gzip"}), "unusable answer"),
    ],
)
async def test_a_platform_without_an_answer_is_a_warning_that_repeats_nothing(reply: Answer, reason: str) -> None:
    async with tokens(Platform(reply)) as (source, _, _live):
        with structlog.testing.capture_logs() as logs:
            assert await source.integration("int-1") is None
    assert [(line["event"], line["reason"]) for line in logs] == [("git.integration_failed", reason)]


@pytest.mark.parametrize("missing", [{"cloud_url": None}, {"gateway": None}])
async def test_without_an_address_or_a_token_the_platform_is_not_asked(missing: dict[str, None]) -> None:
    platform = Platform()
    async with tokens(platform, **missing) as (source, _, _live):
        assert await source.integration("int-1") is None
    assert platform.asked == []


async def test_without_a_worker_nothing_is_renewed() -> None:
    async with open_network() as network:
        live = LiveCredentials(Credentials())
        source = GitTokens(NoWorker(), network.client(), live, cloud_url=None, kilocode_token=None)
        assert await source.renewed("rig-1") is None


async def test_a_platform_whose_address_is_none_is_a_warning() -> None:
    async with tokens(Platform(), cloud_url="https://x:abc") as (source, _, _live):
        with structlog.testing.capture_logs() as logs:
            assert await source.integration("int-1") is None
    assert [line["event"] for line in logs] == ["git.integration_failed"]
