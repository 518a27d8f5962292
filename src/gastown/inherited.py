"""What the processes that this one starts may have of its environment: an allow-list, made safe."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from contextlib import suppress
from difflib import get_close_matches

__all__ = ["inherited", "misspelt", "path_without", "unusable_proxy"]

_PASSED_ON = (
    "PATH",
    "HOME",
    "LANG",
    "LANGUAGE",
    "TZ",
    "TMPDIR",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "NODE_EXTRA_CA_CERTS",
)
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_NO_PROXY = "NO_PROXY"
_LOOPBACK = ("localhost", "127.0.0.1", "127.0.0.0/8", "::1")
"""What no call goes to by a proxy: it would carry the town's tokens there. Not every program knows each form."""
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_OURS = frozenset(
    f"GASTOWN_{name}"
    for name in (
        *("AGENT_ID", "AGENT_ROLE", "AI_AGENT_EMAIL", "AI_AGENT_NAME", "BROKER_URL", "DASHBOARD_FILE", "GIT_KEY"),
        *("GIT_SOCKET", "RIG_ID", "SPAWN_MARK", "TERMINAL_PASSWORD"),
    )
)
"""Variables of agents' processes: they are there where an agent starts a town."""


def inherited(source: Mapping[str, str]) -> dict[str, str]:
    """The variables of `source` that every child gets, made safe: see `path_without` and `_LOOPBACK`."""
    found = {name: source[name] for name in _PASSED_ON if name in source}
    found |= {n: v for n, v in source.items() if n.startswith("LC_") or n.upper() in (*_PROXIES, _NO_PROXY)}
    found["PATH"] = path_without(found.get("PATH", _DEFAULT_PATH), _here()) or _DEFAULT_PATH
    if any(name.upper() in _PROXIES and value for name, value in found.items()):
        found |= dict.fromkeys((_NO_PROXY, _NO_PROXY.lower()), _past_proxies(found))
    return found


def path_without(path: str, here: str | None) -> str:
    """`path` without its relative entries and without the folder `here`, the one in which we were started.

    People start towns inside of repositories, and children run in others: a git or a kilo that lies there would
    run with the town's tokens.
    """
    entries = (entry for entry in path.split(os.pathsep) if entry.startswith("/"))
    return os.pathsep.join(entry for entry in entries if here is None or os.path.realpath(entry) != here)


def unusable_proxy(source: Mapping[str, str]) -> str | None:
    """A sentence about a proxy that we cannot use; None when there is none."""
    for name, value in source.items():
        scheme, separator, _ = value.partition("://")
        if name.upper() in _PROXIES and separator and scheme.lower() not in ("http", "https"):
            return (
                f"{name}: must be a proxy with http:// or https://; {scheme.lower()[:20]} is not supported "
                "(give an HTTP proxy, or unset it)"
            )
    return None


def misspelt(names: Collection[str], known: Collection[str]) -> dict[str, str | None]:
    """The GASTOWN_ variables among `names` that no setting has, each with the nearest setting, if one is near."""
    ours = [name for name in known if name.startswith("GASTOWN_")]
    strange = (name for name in sorted(names) if name.upper().startswith("GASTOWN_"))
    return {
        name: next(iter(get_close_matches(name.upper(), ours, 1, 0.75)), None)
        for name in strange
        if name.upper() not in known and name not in _OURS
    }


def _past_proxies(found: Mapping[str, str]) -> str:
    said = ",".join(filter(None, (found.get(_NO_PROXY), found.get(_NO_PROXY.lower()))))
    names = [name.strip() for name in said.split(",") if name.strip()]
    if "*" in names:  # no proxy at all: curl, and so git, knows it only when nothing stands beside it
        return "*"
    return ",".join(dict.fromkeys((*names, *_LOOPBACK)))


def _here() -> str | None:
    with suppress(OSError):  # the folder may be gone
        return os.path.realpath(".")
    return None
