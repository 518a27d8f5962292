"""The user API of a hall: what people see of a town, and what they decide."""

from __future__ import annotations

import json
import stat
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import httpx2
import pytest
import trio
from quart import Quart

from gastown.hall.domain.town import RigRecord
from gastown.hall.hall import ADDRESS, USER_TOKEN, Hall, HallOptions, open_hall
from gastown.hall.reconcile import facts
from gastown.hall.reconcile.actions import Merge
from gastown.hall.reconcile.step import outstanding
from gastown.hall.store import board as work
from gastown.hall.store import town_state
from gastown.hall.user_api import words
from gastown.hall.user_api.routes import as_blueprint
from gastown.hall.user_api.table import USER_ROUTES

HEAD, LANDED = "a" * 40, "c" * 40


@dataclass
class Town:
    """A hall's town, its data directory, and a client with the user's token."""

    hall: Hall
    client: httpx2.AsyncClient
    folder: Path

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        reply = await self.client.request(method, f"/towns/oak{path}", json=body)
        assert reply.status_code == 200, reply.text
        return reply.json()

    async def refused(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        reply = await self.client.request(method, f"/towns/oak{path}", json=body)
        return reply.status_code, reply.json()

    async def sling(self, title: str = "Mend", **more: Any) -> str:
        bead: str = (await self.ask("POST", "/beads", {"rig": "r1", "title": title, **more}))["id"]
        return bead

    async def take(self, *given: facts.Fact) -> None:
        await self.hall.store.transaction("oak", lambda board: town_state.take(board, *given))

    async def hand_in(self, bead: str) -> None:
        """What the bead's author does with gt_done."""
        author = (await self.ask("GET", f"/beads/{bead}"))["bead"]["agent"]
        more = {"branch": "b", "pr_url": None, "summary": "It is mended."}
        await self.hall.store.transaction(
            "oak",
            lambda board: work.finish_work(board, "r1", author, **more),  # type: ignore[arg-type]
        )

    async def merges(self) -> list[Merge]:
        return [one for one in outstanding(await self.hall.store.state("oak")) if isinstance(one, Merge)]


@pytest.fixture
async def town(tmp_path: Path) -> AsyncIterator[Town]:
    async with open_hall(HallOptions(data_dir=tmp_path, town_id="oak")) as hall:
        rig = RigRecord(rig_id="r1", git_url="https://x.test/r", default_branch="main")
        await hall.store.save_rig("oak", rig)
        token = {"Authorization": f"Bearer {(tmp_path / USER_TOKEN).read_text().strip()}"}
        async with httpx2.AsyncClient(base_url=hall.url, headers=token, trust_env=False) as client:
            yield Town(hall, client, tmp_path)


async def test_where_the_hall_is_and_its_token_are_found_while_it_is_open(tmp_path: Path) -> None:
    async with open_hall(HallOptions(data_dir=tmp_path, town_id="oak")) as hall:
        assert json.loads((tmp_path / ADDRESS).read_text()).items() >= {"town": "oak", "url": hall.url}.items()
        assert stat.S_IMODE((tmp_path / USER_TOKEN).stat().st_mode) == 0o600
    assert [name for name in (ADDRESS, USER_TOKEN) if (tmp_path / name).exists()] == []


@pytest.mark.parametrize("shown", ["Bearer no", "Basic x", "", "container"])
async def test_only_the_users_token_opens_the_api(town: Town, shown: str) -> None:
    """The container's token does not, either."""
    if shown == "container":
        shown = f"Bearer {(await town.hall.container_token()).reveal()}"
    reply = await town.client.get("/towns/oak/status", headers={"Authorization": shown})
    assert (reply.status_code, [*reply.json()]) == (401, ["error"])


async def test_a_bead_is_slung_and_shown_whole(town: Town) -> None:
    bead = await town.sling("Mend the door", body="It squeaks.", priority="high")
    (listed,) = await town.ask("GET", "/beads")
    since, made = listed["waiting"].pop("since"), listed["createdAt"]
    assert since.endswith("Z")
    agent = listed["agent"]
    assert listed == {
        "id": bead,
        "rig": "r1",
        "title": "Mend the door",
        "type": "issue",
        "status": "open",
        "agent": agent,
        "agentName": "Ash",
        "waiting": {"for": "container", "reason": "the container is starting"},
        "branch": f"gt/ash/{bead}",
        "head": None,
        "commit": None,
        "attempts": 0,
        "cost": 0,
        "createdAt": made,
        "updatedAt": listed["updatedAt"],
    }


NUMBERS = ("calls", "unpriced", "input", "output", "cached", "reasoning", "cost")
NOTHING_USED: dict[str, Any] = {**dict.fromkeys(NUMBERS, 0), "source": None}


async def test_the_status_of_a_town_is_shown_whole(town: Town) -> None:
    bead = await town.sling()
    await town.take(facts.ContainerReady())
    status = await town.ask("GET", "/status")
    mayor, agent = status.pop("agents")
    assert mayor == {
        "id": mayor["id"], "name": "mayor", "role": "mayor", "rig": None,
        "state": "idle", "condition": None, "bead": None, "since": None,
    }  # fmt: skip
    assert agent == {
        "id": agent["id"], "name": "Ash", "role": "polecat", "rig": "r1",
        "state": "starting", "condition": None, "bead": bead, "since": agent["since"],
    }  # fmt: skip
    most = status["slots"].pop("most")
    assert most >= 3
    assert status == {
        "town": "oak",
        "paused": False,
        "container": {"state": "ready"},
        "slots": {"used": 1},
        "needsYou": [],
        "spent": {"today": 0, "budget": None},
        "usage": {"today": NOTHING_USED, "total": NOTHING_USED},
    }


async def test_what_is_handed_in_needs_a_person_and_is_approved_and_merged(town: Town) -> None:
    bead = await town.sling("Mend")
    await town.take(facts.ContainerReady())
    await town.hand_in(bead)
    (needs,) = (await town.ask("GET", "/status"))["needsYou"]
    assert (needs["bead"], "approve its merge" in needs["question"]) == (bead, True)
    (review,) = await town.ask("GET", "/reviews")
    assert review == {
        "bead": bead, "rig": "r1", "title": "Mend", "agent": review["agent"], "agentName": "Ash",
        "branch": f"gt/ash/{bead}", "head": None, "target": "main", "phase": "asking",
        "since": review["since"], "summary": "It is mended.",
    }  # fmt: skip
    why = await town.ask("GET", f"/beads/{bead}/why")
    assert f"gastown review approve {bead}" in why["moves"]
    once = await town.ask("POST", f"/beads/{bead}/approve", {"head": HEAD})
    assert once == await town.ask("POST", f"/beads/{bead}/approve")
    assert once["waiting"]["for"] == "merge"
    (merge,) = await town.merges()
    assert merge.head == HEAD
    await town.take(facts.Merged(merge_id=merge.merge_id, commit=LANDED))
    found = await town.ask("GET", f"/beads/{bead}")
    assert (found["bead"]["status"], found["bead"]["commit"]) == ("closed", LANDED)
    assert [one["kind"] for one in found["history"]] == ["Added", "HandedIn", "Approved", "Merged"]
    assert [(one["outcome"], one["agent"]) for one in found["attempts"]] == [("handed_in", review["agent"])]
    assert found["why"]["says"] == f"it is merged as {LANDED[:12]}"


async def test_what_is_rejected_goes_back_to_its_author_with_the_message(town: Town) -> None:
    bead = await town.sling()
    await town.hand_in(bead)
    back = await town.ask("POST", f"/beads/{bead}/reject", {"message": "Say why."})
    assert back["status"] == "in_progress"
    history = (await town.ask("GET", f"/beads/{bead}"))["history"]
    assert history[-1]["says"] == "a person asks for changes: Say why."


async def test_a_commit_after_the_one_that_was_looked_at_is_not_approved(town: Town) -> None:
    bead = await town.sling()
    await town.hand_in(bead)
    await town.take(facts.Approved(bead_id=bead, head=HEAD))
    await town.ask("POST", f"/beads/{bead}/reject", {"message": "Again."})
    await town.hand_in(bead)
    (review,) = await town.ask("GET", "/reviews")
    assert (review["phase"], await town.merges()) == ("asking", [])


async def test_a_stopped_bead_waits_for_a_person_until_it_is_retried(town: Town) -> None:
    bead = await town.sling()
    await town.take(facts.ContainerReady())
    agent = (await town.ask("GET", f"/beads/{bead}"))["bead"]["agent"]
    stopped = await town.ask("POST", f"/agents/{agent}/stop")
    assert (stopped["id"], stopped["status"], stopped["waiting"]["for"]) == (bead, "open", "person")
    assert stopped == await town.ask("POST", f"/beads/{bead}/stop")
    assert (await town.refused("POST", f"/agents/{agent}/stop"))[0] == 404
    await town.take(facts.AgentStopped(agent_id=agent))
    assert (await town.ask("GET", "/status"))["slots"]["used"] == 0
    assert (await town.ask("POST", f"/beads/{bead}/retry"))["status"] == "in_progress"
    assert (await town.ask("GET", f"/beads/{bead}"))["bead"]["attempts"] == 2


async def test_a_closed_bead_is_begun_again_by_a_retry_alone(town: Town) -> None:
    bead = await town.sling()
    failed = await town.ask("POST", f"/beads/{bead}/close", {"failed": True})
    assert (failed["status"], failed["waiting"]) == ("failed", None)
    assert failed == await town.ask("POST", f"/beads/{bead}/close", {"failed": True})
    status, told = await town.refused("POST", f"/beads/{bead}/close")
    assert (status, told["error"]) == (409, f"Bead {bead} is failed and cannot become closed")
    assert (await town.ask("POST", f"/beads/{bead}/retry"))["status"] == "open"


async def test_a_paused_town_begins_nothing_until_it_is_resumed(town: Town) -> None:
    assert (await town.ask("POST", "/pause"))["paused"] is True
    bead = await town.sling()
    await town.take(facts.ContainerReady())
    assert (await town.ask("GET", f"/beads/{bead}/why"))["moves"] == ["gastown resume"]
    assert await town.ask("PATCH", "/config", {"slots": 1}) == {
        "model": None,
        "models": {},
        "slots": 1,
        "paused": True,
        "budgetDay": None,
        "budgetBead": None,
        "timeZone": None,
    }
    await town.ask("POST", "/resume")
    other = await town.sling("Other")
    waiting = (await town.ask("GET", f"/beads/{other}"))["bead"]["waiting"]
    assert (waiting["for"], waiting["reason"]) == ("slot", "all 1 slots are taken")
    assert await town.ask("PATCH", "/config", {"slots": None}) == await town.ask("GET", "/config")


async def test_a_bead_is_changed_and_waits_for_another_one(town: Town) -> None:
    first, second = await town.sling("First"), await town.sling("Second")
    changes = {"title": "Later", "priority": "low", "dependsOn": [first[:10]]}
    changed = await town.ask("PATCH", f"/beads/{second}", changes)
    assert (changed["title"], changed["waiting"]["bead"]) == ("Later", first)
    found = await town.ask("GET", f"/beads/{second}")
    assert (found["priority"], found["dependsOn"]) == ("low", [first])
    assert (await town.ask("GET", f"/beads/{second}/why"))["moves"] == [f"gastown why {first}"]


async def test_beads_are_found_by_the_beginning_of_their_id_and_by_rig_and_status(town: Town) -> None:
    first = await town.sling("First")
    await town.ask("POST", f"/beads/{first}/close")
    second = await town.sling("Second")
    assert (await town.ask("GET", f"/beads/{second.removeprefix('bead-')}"))["bead"]["id"] == second
    assert [one["id"] for one in await town.ask("GET", "/beads?status=closed")] == [first]
    assert [one["id"] for one in await town.ask("GET", "/beads?rig=r1")] == [first, second]
    status, told = await town.refused("GET", "/beads/bead-")
    assert (status, told["action"]) == (404, "give more of the id")


REFUSED = [
    ("GET", "/beads/bead-z", None, 404, "There is no bead bead-z"),
    ("GET", "/beads/%25", None, 404, "There is no bead %"),
    ("GET", "/beads?rig=r9", None, 404, "There is no rig r9"),
    ("GET", "/beads?status=new", None, 400, "status must be one of"),
    ("POST", "/beads", {"rig": "r9", "title": "t"}, 404, "There is no rig r9"),
    ("POST", "/beads", {"rig": "r1", "title": "t", "dependsOn": ["bead-z"]}, 404, "There is no bead bead-z"),
    ("POST", "/beads", {"rig": "r1"}, 400, "title: Field required"),
    ("POST", "/beads", {"rig": "r1", "title": "t", "prio": "high"}, 400, "prio: Extra inputs"),
    ("POST", "/beads", {"rig": "r1", "title": "a\nb"}, 400, "title"),
    ("POST", "/beads", [], 400, ""),
    ("POST", "/beads/$bead/approve", None, 409, "has nothing handed in"),
    ("POST", "/beads/$bead/reject", {"message": "no"}, 409, "has nothing handed in"),
    ("POST", "/beads/$bead/reject", {"message": "  "}, 400, "message"),
    ("POST", "/beads/$bead/close", {"failed": "yes"}, 400, "failed"),
    ("PATCH", "/beads/$bead", {"dependsOn": ["$bead"]}, 400, "wait for itself"),
    ("POST", "/agents/nobody/stop", None, 404, "No agent nobody is at work"),
    ("PATCH", "/config", {"slots": 0}, 400, "slots"),
    ("PATCH", "/config", {"budgetDay": -1}, 400, "budgetDay"),
    ("PATCH", "/config", {"budgetBead": "5"}, 400, "budgetBead"),
    ("PATCH", "/config", {"timeZone": "Mars/North"}, 400, "timeZone"),
    ("PATCH", "/config", {"slotz": 3}, 400, "slotz"),
    ("POST", "/mayor", {"text": "hi"}, 503, "has no container now"),
    ("POST", "/end", None, 409, "cannot be told to end"),
    ("GET", "/events?after=soon", None, 400, "number of an event"),
    ("GET", "/nothing", None, 404, "Not found"),
]


async def test_what_cannot_be_done_is_one_sentence_and_changes_nothing(town: Town) -> None:
    bead = await town.sling()
    before = await town.ask("GET", "/beads")
    for method, path, body, status, sentence in REFUSED:
        filled = json.loads(json.dumps([path, body]).replace("$bead", bead))
        got, told = await town.refused(method, *filled)
        assert (got, sentence in told["error"], "\n" in told["error"]) == (status, True, False), (path, told)
    reply = await town.client.get("/towns/elm/status")
    assert (reply.status_code, reply.json()) == (404, {"error": "There is no town elm here"})
    assert await town.ask("GET", "/beads") == before


async def events_of(town: Town, query: str, number: int, **headers: str) -> list[Any]:
    """The first events of the stream."""
    found: list[Any] = []
    with trio.fail_after(10):
        async with town.client.stream("GET", f"/towns/oak/events{query}", headers=headers) as answer:
            assert answer.headers["content-type"] == "text/event-stream"
            async for line in answer.aiter_lines():
                if line.startswith("data: "):
                    found.append(json.loads(line.removeprefix("data: ")))
                if len(found) == number:
                    return found
    return found


async def test_the_stream_has_each_fact_once_from_the_cursor_on(town: Town) -> None:
    bead = await town.sling()
    await town.ask("POST", f"/beads/{bead}/close")
    await town.ask("POST", f"/beads/{bead}/retry")
    every = await events_of(town, "?after=0", 3)
    assert [one["kind"] for one in every] == ["Added", "Closed", "Retried"]
    assert every[1:] == await events_of(town, f"?after={every[0]['number']}", 2)
    cursor = str(every[1]["number"])
    assert every[2:] == await events_of(town, "?after=0", 1, **{"Last-Event-ID": cursor})
    assert every[2] == {
        "number": every[2]["number"], "at": every[2]["at"], "kind": "Retried", "bead": bead,
        "says": "a person lets it go on",
    }  # fmt: skip


def test_every_kind_of_fact_has_words() -> None:
    """None is told as the name of its class."""
    kinds = {kind.__name__ for kind in get_args(facts.Fact)}
    told = {kind: words.told(kind, defaultdict(str, work={"title": "t"}, files=["f"])) for kind in kinds}
    assert {kind for kind, says in told.items() if kind in says} == set()


async def test_the_stream_says_at_once_what_happens(town: Town) -> None:
    found: list[Any] = []

    async def follow() -> None:
        found.extend(await events_of(town, "", 1))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow)
        while not found:
            await town.take(facts.ContainerLost(reason="a test"))
            await trio.sleep(0.05)  # until the stream is open
    assert found[0]["says"] == "the container is lost: a test"


async def test_an_open_stream_ends_with_the_hall_and_is_not_cut(tmp_path: Path) -> None:
    async with open_hall(HallOptions(data_dir=tmp_path, town_id="oak")) as hall:
        town = Town(hall, httpx2.AsyncClient(base_url=hall.url, trust_env=False), tmp_path)
        town.client.headers["Authorization"] = f"Bearer {hall.desk.token.reveal()}"
        stream = town.client.stream("GET", "/towns/oak/events")
        answer = await stream.__aenter__()
        lines = answer.aiter_lines()
        assert (await anext(lines)).startswith(":")
    assert [line async for line in lines if line] == []
    await stream.__aexit__(None, None, None)
    await town.client.aclose()


async def test_the_description_has_every_route_with_its_meaning(town: Town) -> None:
    described = (await town.client.get("/openapi.json")).json()
    operations = [one for path in described["paths"].values() for one in path.values()]
    assert [one["operationId"] for one in operations if not one["summary"]] == []
    served = {rule.rule for rule in town_rules() if rule.rule.startswith("/towns/<town>")}
    spelled = {path.replace("{", "<").replace("}", ">") for path in described["paths"]}
    assert served == spelled


def town_rules() -> list[Any]:
    app = Quart("t", static_folder=None)
    app.register_blueprint(as_blueprint(USER_ROUTES))
    return list(app.url_map.iter_rules())


async def test_a_rig_says_how_it_merges_and_is_changed_by_what_is_named(town: Town) -> None:
    (rig,) = await town.ask("GET", "/rigs")
    assert rig == {
        "id": "r1",
        "place": "https://x.test/r",
        "branch": "main",
        "merge": "ask",
        "review": "none",
        "checks": [],
        "checkSeconds": 900,
        "slots": None,
    }
    changed = await town.ask("PATCH", "/rigs/r1", {"merge": "auto", "checks": ["make test"], "slots": 2})
    assert changed == rig | {"merge": "auto", "checks": ["make test"], "slots": 2}
    again = await town.ask("PATCH", "/rigs/r1", {"slots": None})
    assert again == changed | {"slots": None}
    rules = (await town.hall.store.state("oak")).rules.rigs["r1"]
    assert (rules.merge, rules.checks) == ("auto", ("make test",))


@pytest.mark.parametrize(
    ("rig", "body", "status"),
    [
        ("r9", {"merge": "auto"}, 404),
        ("r1", {"merge": "never"}, 400),
        ("r1", {"checks": ["a\0b"]}, 400),
        ("r1", {"checks": ["x"] * 51}, 400),
        ("r1", {"slots": 0}, 400),
        ("r1", {"merges": "auto"}, 400),
    ],
)
async def test_a_setting_of_a_rig_that_makes_no_sense_changes_nothing(
    town: Town, rig: str, body: dict[str, Any], status: int
) -> None:
    before = await town.ask("GET", "/rigs")
    assert (await town.refused("PATCH", f"/rigs/{rig}", body))[0] == status
    assert await town.ask("GET", "/rigs") == before


async def test_work_that_waits_for_an_approval_goes_on_when_its_rig_asks_no_more(town: Town) -> None:
    bead = await town.sling()
    await town.take(facts.ContainerReady())
    await town.hand_in(bead)
    assert [one["bead"] for one in (await town.ask("GET", "/status"))["needsYou"]] == [bead]
    await town.ask("PATCH", "/rigs/r1", {"merge": "auto"})
    merges = [one for one in outstanding(await town.hall.store.state("oak")) if isinstance(one, Merge)]
    assert [one.bead_id for one in merges] == [bead]
