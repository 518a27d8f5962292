"""Finding a town that is up, and asking its hall; without a framework, so that a command is soon over."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

__all__ = [
    "FAILED",
    "NEEDS_A_PERSON",
    "NOT_THERE",
    "WRONG_CALL",
    "CommandFailed",
    "NotUp",
    "TownClient",
    "find_town",
]

FAILED, WRONG_CALL, NOT_THERE, NEEDS_A_PERSON = 1, 2, 3, 4
"""Exit codes: it failed; the call was wrong; there is no such town, bead, rig or agent; it waits for a person."""

_SECONDS = 150  # the mayor may have to be started first
_SILENT_SECONDS = 60
_CODES = {HTTPStatus.BAD_REQUEST: WRONG_CALL, HTTPStatus.NOT_FOUND: NOT_THERE}


class CommandFailed(Exception):
    """A command has failed: one sentence, what to do, where that is known, and the exit code."""

    def __init__(self, sentence: str, action: str | None = None, code: int = FAILED) -> None:
        super().__init__(sentence)
        self.action = action
        self.code = code


class NotUp(CommandFailed):
    """There is a town, and it is not up."""

    def __init__(self, town: str, folder: Path) -> None:
        super().__init__(f"the town in {folder} is not up", f"start it: gastown up --town {town}")


@dataclass(frozen=True)
class TownClient:
    """A town that is up: its directory, where its hall answers, and the bearer for it."""

    town: str
    folder: Path
    url: str
    token: str

    def ask(self, method: str, *path: str, body: Any = None, **query: str | None) -> Any:
        """The answer of the hall, as JSON. CommandFailed with its sentence when it refuses.

        The parts of the path may hold any character.
        """
        connection, answer = self._open(method, path, body, query, _SECONDS)
        try:
            content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise self._gone(error) from error
        finally:
            connection.close()
        said = _json(content)
        if answer.status != HTTPStatus.OK:
            raise _refused(answer.status, said)
        return said

    def events(self, after: int, *path: str) -> Iterator[dict[str, Any]]:
        """What happens after an event's number, in the town or below `path`, as it happens, until the hall closes.

        It says something every quarter of a minute: one that is silent for a minute has failed.
        """
        connection, answer = self._open("GET", (*path, "events"), None, {"after": str(after)}, _SILENT_SECONDS)
        try:
            if answer.status != HTTPStatus.OK:
                raise _refused(answer.status, _json(answer.read()))
            while line := answer.readline():
                if line.startswith(b"data: "):
                    yield json.loads(line.removeprefix(b"data: "))
        except (OSError, http.client.HTTPException) as error:
            raise self._gone(error) from error
        finally:
            connection.close()

    def _open(
        self, method: str, path: tuple[str, ...], body: Any, query: dict[str, str | None], seconds: float | None
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        place = urlsplit(self.url)
        connection = http.client.HTTPConnection(place.hostname or "", place.port or 80, timeout=seconds)
        given = {name: value for name, value in query.items() if value is not None}
        target = "/".join(["", "towns", *(quote(part, safe="") for part in (self.town, *path))])
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        content = None if method == "GET" else json.dumps({} if body is None else body)
        try:
            connection.request(method, target + (f"?{urlencode(given)}" if given else ""), content, headers)
            return connection, connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise self._gone(error) from error

    def _gone(self, error: Exception) -> CommandFailed:
        if isinstance(error, TimeoutError):
            return CommandFailed(f"the hall of town {self.town} does not answer")
        if isinstance(error, ConnectionRefusedError):
            return NotUp(self.town, self.folder)
        return CommandFailed(f"the hall of town {self.town} has not answered: {str(error) or repr(error)}")


def find_town(town: str, folder: Path) -> TownClient:
    """The town of that directory; CommandFailed when there is none, or it is not up."""
    if not (folder / "hall.db").is_file():
        action = f"gastown up --town {town} makes one, and --dir names another place"
        raise CommandFailed(f"there is no town in {folder}", action, NOT_THERE)
    try:
        place = json.loads((folder / "hall.json").read_text("utf-8"))
        token = (folder / "user.token").read_text("utf-8").strip()
        named, url = str(place["town"]), str(place["url"])
    except FileNotFoundError:
        raise NotUp(town, folder) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CommandFailed(f"cannot read where the hall of {folder} is: {error}") from error
    return TownClient(named, folder, url, token)


def _refused(status: int, said: Any) -> CommandFailed:
    body = said if isinstance(said, dict) else {}
    sentence = str(body.get("error") or f"the hall answered with {status}")
    action = body.get("action")
    return CommandFailed(sentence, None if action is None else str(action), _CODES.get(HTTPStatus(status), FAILED))


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return None
