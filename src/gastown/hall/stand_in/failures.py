"""How often a request has failed because its script says so: the one thing that no message of it tells."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from gastown.hall.stand_in.conversation import messages_of
from gastown.hall.stand_in.script import Failure

__all__ = ["Failures"]

_MOST = 1000
"""Requests that are remembered; the one that is asked least recently is forgotten first."""


class Failures:
    """Counts, for as long as a hall is open. A hall that is opened again begins with none."""

    def __init__(self) -> None:
        self._seen: OrderedDict[str, int] = OrderedDict()

    def fails(self, body: Mapping[str, Any], failure: Failure) -> bool:
        """Whether the request fails this time, too; counts it if so."""
        if failure.times is None:
            return True
        # The whole body is never the same twice: kilo tells the time in it, and the system text what is new.
        spoken = (message for message in messages_of(body) if message.said_by != "system")
        key = json.dumps([[message.said_by, message.text] for message in spoken])
        count = self._seen.pop(key, 0)
        self._seen[key] = min(count + 1, failure.times)
        if len(self._seen) > _MOST:
            self._seen.popitem(last=False)
        return count < failure.times
