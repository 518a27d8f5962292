"""Terminals of an agent, as the control API and kilo show them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, RootModel

from gastown.contract.wire import Wire

__all__ = ["Pty", "PtyChange", "PtyList", "PtyRemoved", "PtySize"]


class Pty(Wire):
    """A terminal that runs in the agent's kilo server."""

    id: str
    status: str
    title: str = ""
    command: str = ""
    args: tuple[str, ...] = ()
    cwd: str = ""
    pid: int | None = None


class PtyList(RootModel[tuple[Pty, ...]]):
    """`GET /agents/:id/pty`."""


class PtySize(Wire):
    rows: Annotated[int, Field(ge=1, le=10_000)]
    cols: Annotated[int, Field(ge=1, le=10_000)]


class PtyChange(Wire):
    """`PUT /agents/:id/pty/:ptyId`: what is to change."""

    size: PtySize | None = None
    title: Annotated[str, Field(max_length=200)] | None = None


class PtyRemoved(RootModel[bool]):
    """`DELETE /agents/:id/pty/:ptyId`: what kilo answers, which is true."""
