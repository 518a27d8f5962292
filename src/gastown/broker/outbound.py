"""Clients for what lies outside of the container, by the proxies of the environment."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import httpx2

from gastown.settings import BadSettings

__all__ = ["outbound_client"]

_DIRECT: Mapping[str, None] = MappingProxyType(
    {
        "all://localhost": None,
        "all://*.localhost": None,
        "all://127.0.0.0/8": None,
        "all://[::1]": None,
        "all://0.0.0.0": None,
    }
)
"""Loopback is never proxied, whatever NO_PROXY says: a proxy would be told our tokens."""


def outbound_client(**options: Any) -> httpx2.AsyncClient:
    """An `AsyncClient` with `options`. Raises `BadSettings` for proxies that cannot be used."""
    try:
        return httpx2.AsyncClient(mounts=_DIRECT, **options)
    except (ImportError, ValueError, httpx2.InvalidURL) as error:
        kind = type(error).__name__
        raise BadSettings(f"HTTP_PROXY, HTTPS_PROXY, ALL_PROXY or NO_PROXY: cannot be used ({kind})") from error
