"""How deploy/ runs the image: the two services of compose.yaml, and the container of the Pod template."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tools.image.container import Folder, Rights
from tools.image.dockerfile import Stage

__all__ = ["Plan", "of_compose", "of_pod"]

DEPLOY = Path(__file__).parents[2] / "deploy"


@dataclass(frozen=True)
class Plan:
    """What a container of the image is run with. `agent_drain` runs inside before its first signal."""

    command: list[str]
    environment: dict[str, str]
    rights: Rights
    agent_drain: list[str] | None = None


def of_compose(service: str, image: Stage, given: Mapping[str, str], volumes: Path) -> Plan:
    """A service of compose.yaml, its volumes below `volumes`; `given` is what the caller's shell has."""
    whole = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))["services"][service]
    folders = []
    for volume in whole.get("volumes", []):
        name, where, *options = volume.split(":")
        folders.append(Folder(where, volumes / name, "ro" in options))
    return Plan(
        [*image.last("ENTRYPOINT").array(), *whole["command"]],
        {name: filled_in(value, given) for name, value in whole["environment"].items()},
        Rights(
            capabilities=whole.get("cap_add", []),
            new_privileges="no-new-privileges:true" not in whole["security_opt"],
            read_only=whole.get("read_only", False),
            folders=folders,
        ),
    )


def filled_in(value: str, given: Mapping[str, str]) -> str:
    return re.sub(r"\$\{(\w+)(?::[-?]([^}]*))?\}", lambda found: given.get(found[1]) or found[2] or "", value)


def of_pod(image: Stage, given: Mapping[str, str], volumes: Path) -> Plan:
    """The container of the Pod template; `given` is what its Secret and its overlay say."""
    base = DEPLOY / "kubernetes" / "base"
    container = town_container()
    settings = yaml.safe_load((base / "kustomization.yaml").read_text("utf-8"))["configMapGenerator"][0][
        "literals"
    ]
    security = container["securityContext"]
    return Plan(
        [*image.last("ENTRYPOINT").array(), *image.last("CMD").array()],
        dict(literal.split("=", 1) for literal in settings) | dict(given),
        Rights(
            capabilities=security["capabilities"]["add"],
            new_privileges=security["allowPrivilegeEscalation"],
            read_only=security["readOnlyRootFilesystem"],
            # Every user may write to an emptyDir.
            folders=[
                Folder(one["mountPath"], volumes / one["name"], mode=0o777) for one in container["volumeMounts"]
            ],
        ),
        agent_drain=container["lifecycle"]["preStop"]["exec"]["command"],
    )


def town_container() -> dict[str, Any]:
    template = next(yaml.safe_load_all((DEPLOY / "kubernetes" / "base" / "town.yaml").read_text("utf-8")))
    container: dict[str, Any] = template["spec"]["template"]["spec"]["containers"][0]
    return container
