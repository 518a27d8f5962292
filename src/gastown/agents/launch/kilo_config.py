"""The configuration of an agent's kilo server: all that could make kilo ask a person is decided in it.

A repository adds nothing to it: kilo does not read a project's configuration (`HERMETIC`), and the plugin takes
away what kilo reads nevertheless (docs/adr/0044).
"""

from __future__ import annotations

import json
import os
from types import MappingProxyType
from typing import Any

__all__ = ["HERMETIC", "PROJECT_FILES", "canonical", "kilo_config", "project_files"]

HERMETIC = MappingProxyType(
    {
        # Nothing of kilo.json or of a .kilo folder, with its plugins, in the directory that an agent works in.
        "KILO_DISABLE_PROJECT_CONFIG": "1",
        # A repository's skill may hold shell commands, which kilo would run while it loads the skill.
        "KILO_DISABLE_SKILL_SHELL": "1",
    }
)
PROJECT_FILES = (
    *(f"{name}.{ending}" for name in ("kilo", "opencode") for ending in ("json", "jsonc")),
    *(".kilo", ".kilocode", ".opencode", ".kilocodemodes", ".kilocodeignore"),
)
"""What kilo takes for a project's own configuration (7.7.7), and does not get to read here."""

_ASKS = (
    # kilo 7.7.7 asks for these, or could; what it does not ask for it allows. `*` is not among them: it would
    # overrule what its own helpers (`plan`, `explore`) may not do.
    "bash",
    "browser_open",
    "doom_loop",
    "edit",
    "external_directory",
    "kilo_local_recall",
    "kilo_memory_recall",
    "kilo_memory_save",
    "lsp",
    "notebook_edit",
    "notebook_execute",
    "notebook_read",
    "recall",
    "semantic_search",
    "skill",
    "task",
    "webfetch",
    "websearch",
)
# For these kilo asks in spite of a rule that is as broad as "*".
_NARROW = {
    "agent_manager": dict.fromkeys(("*", "answer", "move", "prompt", "stop"), "allow"),
    "read": dict.fromkeys(("*", "*.env", "*.env.*"), "allow"),
}


def kilo_config(primary: str, small: str, token: str, plugin: str | None) -> str:
    """The JSON for KILO_CONFIG_CONTENT. `primary` and `small` are names of models without a provider, `token` is
    what the gateway is shown, `plugin` the plugin's file:// address.
    """
    options = {"apiKey": token, "kilocodeToken": token}
    config: dict[str, Any] = {
        "provider": {"kilo": {"options": options, "models": {primary: {}, small: {}}}},
        "disabled_providers": [],
        "default_agent": "code",
        "model": f"kilo/{primary}",
        "small_model": f"kilo/{small}",
        "agent": {
            **{name: {"model": f"kilo/{primary}"} for name in ("code", "general", "plan", "explore")},
            "title": {"model": f"kilo/{small}"},
        },
        "permission": {**dict.fromkeys(_ASKS, "allow"), **_NARROW},
        "mcp": {},
        # A slow one asks a person whether to go on, and the turn waits for the answer (docs/adr/0028).
        "snapshot": False,
        # Named as a file: a plugins folder would wait for a package registry (kilo-facts 4).
        **({"plugin": [plugin]} if plugin else {}),
    }
    return canonical(config)


def project_files(workdir: str) -> list[str]:
    """Which of the `PROJECT_FILES` lie in a working directory. Blocks."""
    return sorted(name for name in PROJECT_FILES if os.path.lexists(f"{workdir}/{name}"))


def canonical(value: object) -> str:
    """JSON that is the same for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
