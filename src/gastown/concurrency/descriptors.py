"""How many files the process may have open."""

from __future__ import annotations

import resource

import structlog

__all__ = ["descriptor_limit", "raise_descriptor_limit"]

log = structlog.get_logger()

ENOUGH = 65_536
"""More is not asked for: there are programs that close every number up to the limit, one by one."""
TOO_FEW = 1024


def descriptor_limit() -> int:
    """How many files the process may have open now."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return ENOUGH if soft == resource.RLIM_INFINITY else soft


def raise_descriptor_limit() -> int:
    """Have as many as the hard limit allows, up to `ENOUGH`; children inherit it. Says where that is too few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENOUGH if hard == resource.RLIM_INFINITY else min(hard, ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    limit = descriptor_limit()
    if limit < TOO_FEW:
        log.warning("descriptors.few", limit=limit, remedy=f"raise the hard limit (ulimit -Hn) to {ENOUGH}")
    return limit
