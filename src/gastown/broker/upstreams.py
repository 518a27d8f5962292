"""The two sides that the broker forwards to, as the rest of the house provides them."""

from __future__ import annotations

from typing import Protocol

from gastown.contract.secret import Secret

__all__ = ["Upstreams"]


class Upstreams(Protocol):
    """Addresses and the worker's token, asked at the moment of use. An address has no slash at its end."""

    @property
    def worker_url(self) -> str | None: ...

    @property
    def gateway_url(self) -> str: ...

    @property
    def own_gateway_url(self) -> str | None:
        """The base of a gateway with OpenAI's paths, which then takes the place of the other one."""
        ...

    @property
    def worker_token(self) -> Secret | None: ...

    async def renew_worker_token(self, refused: Secret | None) -> bool:
        """Have a newer token than `refused`; False when there is none to be had. Deadlines are its own."""
        ...
