"""The live git credentials of every rig, and which of them goes where.

Nothing of this is on a disk. A token is chosen at the moment in which git asks for it, so a new one is live
for the next push of every agent. The one that was given last comes first, whichever it is: a token that the
worker renewed, user and password in the rig's address, one that a request brought, the town's; in this order where
they came together. Then the platform integration's, and last a token that stands in the address alone. One that
the remote has refused comes after all that it has not.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol

import structlog
import trio

from gastown.concurrency.locks import NamedLocks
from gastown.contract.git import Remote, is_one_line
from gastown.contract.secret import Secret
from gastown.contract.town import GitAuth

__all__ = ["ANY_RIG", "OWN", "GitCredentials", "Login", "TokenSource"]

log = structlog.get_logger()

RENEW_PAUSE_SECONDS = 20.0
"""No other token is asked for this soon after the last time: one that is refused then is not too old."""
_REMEMBERED_REFUSALS = 16
OWN = "-"
"""How the names of our own commands begin as askers. No identifier of an agent may begin so."""
ANY_RIG = "*"
"""The rig that the mayor asks for: any of them. No identifier of a rig may be this."""


class TokenSource(Protocol):
    """Where tokens come from. Each call has its own deadline, logs why it failed, and returns None then."""

    async def renewed(self, rig_id: str) -> Secret | None: ...
    async def integration(self, integration_id: str) -> GitAuth | None: ...


@dataclass(frozen=True)
class Login:
    """What git sends. The user name says which kind of token it is, and is not secret."""

    username: str
    password: Secret


@dataclass
class _Rig:
    """What is known of a rig. `given` are variables of the newest request that brought any, `address` is the login
    of the newest address that had one, `username` the user of the newest that named one. `since` says of each kind
    of login in which generation it was given.
    """

    remote: Remote
    address: Login | None = None
    address_is_token: bool = False
    username: str | None = None
    integration_id: str | None = None
    given: dict[str, Secret] = field(default_factory=dict)
    platform: GitAuth | None = None
    renewed: Secret | None = None
    since: dict[str, int] = field(default_factory=dict)
    asked_at: float = float("-inf")
    refused: deque[Secret] = field(default_factory=lambda: deque(maxlen=_REMEMBERED_REFUSALS))


class GitCredentials:
    """`town` gives the town's credentials of this moment, and `town_since` the generation of each.

    `generation` counts what is given: of two things, the later one has the higher number.
    """

    def __init__(
        self,
        town: Callable[[], GitAuth],
        source: TokenSource,
        *,
        town_since: Callable[[str], int] = lambda _: 0,
        generation: Callable[[], int] | None = None,
    ) -> None:
        self._town = town
        self._source = source
        self._town_since = town_since
        self._generation = generation or count(1).__next__
        self._rigs: dict[str, _Rig] = {}
        self._handed: dict[str, str] = {}
        self._renewing = NamedLocks()

    def register_rig(
        self,
        rig_id: str,
        remote: Remote,
        *,
        given: Mapping[str, Secret] | None = None,
        integration_id: str | None = None,
        since: int | None = None,
    ) -> None:
        """Take what a request says about a rig. What it does not say stays as it was, and so does what is newer.

        `since` is the generation in which the variables `given` came; None for now.
        """
        since = self._generation() if since is None else since
        rig = self._rigs.setdefault(rig_id, _Rig(remote))
        if rig.remote.origin != remote.origin:
            rig = self._rigs[rig_id] = _Rig(remote)
        rig.remote = remote
        if remote.password:
            login = Login(remote.username or "x-access-token", remote.password)
            if login != rig.address:
                rig.address, rig.since["address"] = login, since
            rig.address_is_token = remote.username is None
        rig.username = remote.username or rig.username
        tokens = {name: value for name, value in (given or {}).items() if name in _GIVEN and value}
        for name in [name for name, value in tokens.items() if not is_one_line(value.reveal())]:
            log.warning("git.token_unusable", rig_id=rig_id, name=name)
            del tokens[name]
        if tokens and since >= rig.since.get("given", since):
            rig.given, rig.since["given"] = tokens, since
        if integration_id and integration_id != rig.integration_id:
            rig.integration_id, rig.platform = integration_id, None

    def knows(self, rig_id: str) -> bool:
        """Whether a request has registered a rig. What is older than that says nothing about it any more."""
        return rig_id in self._rigs

    def address(self, rig_id: str) -> str:
        """The URL to clone from: that of the rig, over https where it says ssh and we have a token."""
        rig = self._rigs[rig_id]
        if rig.remote.scheme == "ssh" and any(self._candidates(rig)):
            return f"https://{rig.remote.host}/{rig.remote.path}"
        return rig.remote.url

    async def resolve(self, rig_id: str) -> bool:
        """Make sure that there is a login if there can be one; returns whether there is."""
        rig = self._rigs[rig_id]
        if not any(self._candidates(rig)) and rig.integration_id is not None:
            rig.platform = await self._source.integration(rig.integration_id)
        return any(self._candidates(rig))

    async def login(self, rig_id: str, asker: str, origin: str, path: str) -> Login | None:
        """The login for `origin` that an asker of `rig_id` may have; None: it has to go without.

        Where only refused ones are left, the worker is asked for a new one first. What one of our own commands
        got is remembered until `handed` is asked.
        """
        rig = self._rig_for(rig_id, origin, path)
        if rig is None:
            if not origin.startswith("https:"):
                return None
            return next((login for _, login in self._towns(origin.partition("://")[2])), None)
        name, known = rig
        best = self._best(known)
        if best is None or best.password in known.refused:
            await self.renew(name)
            best = self._best(known)
        if best is not None and asker.startswith(OWN):
            self._handed[asker] = _digest(best.password)
        return best

    def handed(self, asker: str) -> str | None:
        """The SHA-256 of the password that a command of ours got last; asked once, when it has ended."""
        return self._handed.pop(asker, None)

    def refuse(self, digest: str) -> None:
        """A remote takes a login whose password has this SHA-256 for none at all: it is refused for every rig."""
        for rig_id, rig in self._rigs.items():
            self._refuse(rig_id, rig, digest)

    async def renew(self, rig_id: str, refused: str | None = None) -> bool:
        """A login of a rig was refused, that of the SHA-256 `refused` where it is known: get another.

        Returns whether the next one is another.
        """
        rig = self._rigs[rig_id]
        async with self._renewing.of(rig_id):
            if refused is not None:
                # For this rig alone: another repository may show itself to the same token.
                self._refuse(rig_id, rig, refused)
            best = self._best(rig)
            if best is not None and best.password not in rig.refused:
                return True
            if trio.current_time() - rig.asked_at < RENEW_PAUSE_SECONDS:
                return False
            rig.asked_at = trio.current_time()
            token = await self._source.renewed(rig_id)
            if token is None and rig.integration_id is not None:
                rig.platform = await self._source.integration(rig.integration_id)
            elif token is not None:
                rig.renewed, rig.since["renewed"] = token, self._generation()
                if token in rig.refused:
                    rig.refused.remove(token)
                log.info("git.token_renewed", rig_id=rig_id)
            best = self._best(rig)
            return best is not None and best.password not in rig.refused

    def secrets(self) -> Iterator[Secret]:
        """Every value that must never be seen, for redaction."""
        for rig in self._rigs.values():
            for login in self._logins(rig):
                yield login.password
            yield from rig.refused

    def _refuse(self, rig_id: str, rig: _Rig, digest: str) -> None:
        for login in list(self._candidates(rig)):
            if _digest(login.password) == digest and login.password not in rig.refused:
                rig.refused.append(login.password)
                log.info("git.token_refused", rig_id=rig_id)

    def _rig_for(self, rig_id: str, origin: str, path: str) -> tuple[str, _Rig] | None:
        """The rig whose login an asker may have: its own for its own host; for the mayor the one at that path."""
        if rig_id != ANY_RIG:
            own = self._rigs.get(rig_id)
            return (rig_id, own) if own is not None and _origin(own.remote) == origin else None
        for name, rig in self._rigs.items():
            if _origin(rig.remote) == origin and _bare(rig.remote.path) == _bare(path):
                return name, rig
        return None

    def _best(self, rig: _Rig) -> Login | None:
        candidates = list(self._candidates(rig))
        good = (login for login in candidates if login.password not in rig.refused)
        return next(good, candidates[0] if candidates else None)

    def _candidates(self, rig: _Rig) -> Iterator[Login]:
        """Every login that git can be told: one with a line break would tell it something else as well."""
        return (login for login in self._logins(rig) if is_one_line(login.username + login.password.reveal()))

    def _logins(self, rig: _Rig) -> Iterator[Login]:
        remote, gitlab = rig.remote, self._is_gitlab(rig.remote.host, rig)
        username = "oauth2" if gitlab else "x-access-token"
        found: list[tuple[int, Login]] = []
        if rig.renewed:
            found.append((rig.since.get("renewed", 0), Login(username, rig.renewed)))
        if rig.address is not None and not rig.address_is_token:
            found.append((rig.since.get("address", 0), rig.address))
        named = username if gitlab or _is_github(remote.host) else rig.username or username
        for name in _GITLAB_NAMES if gitlab else _GITHUB_NAMES:
            token = rig.given.get(name)
            if token and not (gitlab and token == rig.given.get("GITHUB_TOKEN")):
                found.append((rig.since.get("given", 0), Login(named, token)))
        found.extend(self._towns(remote.host))
        yield from (login for _, login in sorted(found, key=lambda one: -one[0]))
        if rig.platform is not None:
            token = rig.platform.gitlab_token if gitlab else rig.platform.github_token
            if token:
                yield Login(username, token)
        if rig.address is not None and rig.address_is_token:
            yield rig.address

    def _towns(self, host: str) -> Iterator[tuple[int, Login]]:
        """The town's tokens are for GitHub and for its GitLab, and go nowhere else. With their generations."""
        auth = self._town()
        if auth.github_token and _is_github(host):
            yield self._town_since("GITHUB_TOKEN"), Login("x-access-token", auth.github_token)
        if auth.gitlab_token and host in ("gitlab.com", _host_of(auth.gitlab_instance_url)):
            yield self._town_since("GITLAB_TOKEN"), Login("oauth2", auth.gitlab_token)

    def _is_gitlab(self, host: str, rig: _Rig) -> bool:
        instance = rig.given.get("GITLAB_INSTANCE_URL")
        instances = (
            self._town().gitlab_instance_url,
            instance.reveal() if instance else None,
            rig.platform.gitlab_instance_url if rig.platform else None,
        )
        return host == "gitlab.com" or host in [_host_of(url) for url in instances if url]


_GITHUB_NAMES = ("GIT_TOKEN", "GITHUB_TOKEN")
_GITLAB_NAMES = ("GITLAB_TOKEN", "GIT_TOKEN")
_GIVEN = {*_GITHUB_NAMES, *_GITLAB_NAMES, "GITLAB_INSTANCE_URL"}


def _digest(password: Secret) -> str:
    return hashlib.sha256(password.reveal().encode()).hexdigest()


def _is_github(host: str) -> bool:
    return host == "github.com" or host.endswith(".ghe.com")


def _host_of(url: str | None) -> str | None:
    """Host and port of an instance's address, which may have come without a scheme."""
    if not url:
        return None
    try:
        return Remote.parse(f"{url.rstrip('/') if '://' in url else f'https://{url}'}/x").host
    except ValueError:
        return None


def _origin(remote: Remote) -> str:
    return f"https://{remote.host}" if remote.scheme == "ssh" else remote.origin


def _bare(path: str) -> str:
    return path.strip("/").removesuffix(".git")
