"""A `kilo serve` without a process: its routes, its sessions, its events in their order (kilo 7.7.7).

What is claimed here is checked against the real one in tests/kilo/test_kilo_contract.py.
"""

from __future__ import annotations

from gastown.testing.kilo.database import Home, Session
from gastown.testing.kilo.script import BASE_TOOLS, MAYOR_TOOLS, Script
from gastown.testing.kilo.server import FakeKilo

__all__ = ["BASE_TOOLS", "MAYOR_TOOLS", "FakeKilo", "Home", "Script", "Session"]
