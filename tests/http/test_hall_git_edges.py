"""A folder as a rig, at its edges: large and compressed bodies, clients that leave, other towns, new addresses."""

from __future__ import annotations

import base64
import gzip
import os
import secrets
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
import trio

from gastown.contract.secret import Secret
from gastown.hall.hall import open_hall
from gastown.hall.tokens import Scope, mint
from gastown.isolation.descendants import descendants_of
from tests.http.hall_git import Desk, git, make_folder, open_desk


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with open_desk(make_folder(tmp_path / "site"), tmp_path) as opened:
        yield opened


async def head_of(desk: Desk, service: str, length: str) -> tuple[str, bytes]:
    """Host and port, and the head of a POST to a service of the folder."""
    parts = urlsplit(await desk.url())
    login = base64.b64encode(f"{parts.username}:{parts.password}".encode()).decode()
    head = (
        f"POST {parts.path}/{service} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Basic {login}\r\n"
        f"Content-Type: application/x-{service}-request\r\n{length}\r\n\r\n"
    )
    return f"{parts.hostname}:{parts.port}", head.encode()


def backends() -> list[int]:
    return list(descendants_of(os.getpid()))


async def gone() -> None:
    with trio.fail_after(20):
        while backends():
            await trio.sleep(0.05)


async def test_a_large_push_comes_through_in_pieces(desk: Desk) -> None:
    """Larger than what the hall takes elsewhere; nothing of it is compressible."""
    await desk.cloned()
    await desk.git("checkout", "--quiet", "-b", "work")
    await trio.Path(desk.clone / "large").write_bytes(secrets.token_bytes(70 * 1024 * 1024))
    await desk.git("add", ".")
    await desk.git("-c", "core.compression=0", "commit", "--quiet", "-m", "large")
    said = await desk.push("work")
    assert said.code == 0, said.text
    assert git(desk.folder, "cat-file", "-s", "work:large") == str(70 * 1024 * 1024)


@pytest.mark.parametrize("packed", [True, False])
async def test_a_compressed_push_to_the_target_is_read_and_refused_as_any_other(
    desk: Desk, *, packed: bool
) -> None:
    """Compressing a push does not hide what it asks for."""
    main = git(desk.folder, "rev-parse", "main")
    line = f"{main} {'0' * 40} refs/heads/main\0report-status delete-refs".encode()
    body = b"%04x" % (len(line) + 4) + line + b"0000"
    headers = {"Content-Type": "application/x-git-receive-pack-request"}
    if packed:
        body, headers = gzip.compress(body), headers | {"Content-Encoding": "gzip"}
    async with httpx2.AsyncClient(trust_env=False) as client:
        answer = await client.post(f"{await desk.url()}/git-receive-pack", content=body, headers=headers)
        assert answer.status_code == 200
        assert b"ng refs/heads/main main is the branch that the town merges into" in answer.content
        broken = await client.post(
            f"{await desk.url()}/git-receive-pack", content=b"no", headers=headers | {"Content-Encoding": "gzip"}
        )
        assert broken.status_code == 400
    assert git(desk.folder, "rev-parse", "main") == main


async def test_what_is_asked_for_compressed_is_answered(desk: Desk) -> None:
    """git compresses a fetch that asks for much."""
    await desk.cloned()
    for number in range(60):
        git(desk.folder, "branch", f"b{number}")
        git(desk.folder, "commit", "--quiet", "--allow-empty", "-m", str(number))
    assert (await desk.git("fetch", await desk.url(), "+refs/heads/*:refs/remotes/origin/*")).code == 0
    assert (await desk.git("rev-parse", "origin/main")).text.strip() == git(desk.folder, "rev-parse", "main")


@pytest.mark.parametrize("service", ["git-upload-pack", "git-receive-pack"])
async def test_a_client_that_leaves_leaves_no_process(desk: Desk, service: str) -> None:
    """In the middle of its body."""
    main = git(desk.folder, "rev-parse", "main")
    line = f"{'0' * 40} {main} refs/heads/x\0report-status".encode()
    begun = b"%04x" % (len(line) + 4) + line + b"0000PACK"
    address, head = await head_of(desk, service, "Content-Length: 100000")
    host, _, port = address.partition(":")
    stream = await trio.open_tcp_stream(host, int(port))
    await stream.send_all(head + begun)
    with trio.fail_after(20):
        while not backends():
            await trio.sleep(0.01)
    await stream.aclose()
    await gone()
    assert (await desk.git("ls-remote", await desk.url(), cwd=desk.folder)).code == 0


async def test_the_token_of_another_town_and_of_another_kind_open_nothing(desk: Desk) -> None:
    """Also one that is signed with the right secret."""
    secret = await desk.hall.store.jwt_secret("oak")
    assert secret is not None
    parts = urlsplit(await desk.url())
    async with httpx2.AsyncClient(trust_env=False) as client:
        for token in (
            mint(secret, "elm", desk.clock(), Scope.GIT),
            mint(secret, "oak", desk.clock()),
            Secret("x"),
        ):
            url = f"http://127.0.0.1:{parts.port}{parts.path}/info/refs?service=git-upload-pack"
            answer = await client.get(url, auth=("gastown", token.reveal()))
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == 'Basic realm="gastown"'
        token = mint(secret, "oak", desk.clock(), Scope.GIT)
        events = f"{desk.hall.url}/api/towns/oak/container-registry"
        answer = await client.get(events, headers={"Authorization": f"Bearer {token.reveal()}"})
        assert answer.status_code == 401


async def test_a_refresh_gives_a_folder_a_login_of_the_halls(desk: Desk) -> None:
    """The town has no token of GitHub, and needs none."""
    container = (await desk.hall.container_token()).reveal()
    parts = urlsplit(await desk.url())
    async with httpx2.AsyncClient(trust_env=False, headers={"Authorization": f"Bearer {container}"}) as client:
        answer = await client.post(f"{desk.hall.url}/api/towns/oak/rigs/site/refresh-git-token")
        token = answer.json()["data"]["token"]
        assert (await client.post(f"{desk.hall.url}/api/towns/oak/rigs/no/refresh-git-token")).status_code == 404
    url = f"http://x:{token}@127.0.0.1:{parts.port}{parts.path}"
    assert (await desk.git("ls-remote", url, cwd=desk.folder)).code == 0


async def test_a_folder_that_has_gone_is_said(tmp_path: Path) -> None:
    """git shows the sentence to whoever asks."""
    folder = make_folder(tmp_path / "site")
    async with open_desk(folder, tmp_path) as desk:
        folder.rename(tmp_path / "moved")
        said = await desk.git("ls-remote", await desk.url(), cwd=tmp_path)
        assert f"remote: The folder of site is not there any more: {folder}" in said.text


async def test_the_next_hall_knows_the_folder_at_its_own_address(tmp_path: Path) -> None:
    """What is stored is the folder, and not the address of a hall that has gone."""
    async with open_desk(make_folder(tmp_path / "site"), tmp_path) as desk:
        before = await desk.url()
    async with open_hall(replace(desk.options, rigs=())) as hall:
        (rig,) = (await hall.town()).rigs
        assert rig.folder == str(tmp_path / "site")
        assert rig.git_url != before
        assert rig.git_url.partition("@")[2] == f"{hall.url.partition('://')[2]}/git/oak/site.git"
