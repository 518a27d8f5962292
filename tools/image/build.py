"""Runs a Dockerfile's own steps without an engine: in a Debian made by debootstrap, each stage a layer on it.

What is Docker's: the steps, their order, shell, environment and files. What is not: the base comes from
debootstrap, with the two settings that debian:bookworm-slim has; a stage is one layer; nothing is cached. Needs
root, overlayfs and a Debian with the base's release.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from tools.image.dockerfile import Dockerfile, Instruction, Stage, expand

__all__ = ["Layer", "build", "entered", "mounted"]

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CERTIFICATES = "/run/build/certificates.crt"
SLIM = "".join(
    f"path-exclude /usr/share/{name}/*\n"
    for name in ("doc", "info", "linda", "lintian/overrides", "locale", "man")
)
SLIM += "path-include /usr/share/doc/*/copyright\n"
NO_CACHE = """DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb /var/cache/apt/*.bin || true"; };
Dir::Cache::pkgcache ""; Dir::Cache::srcpkgcache "";
Acquire::Languages "none";
"""


@dataclass
class Layer:
    """What one stage adds. `lower` are the folders below it, the nearest first."""

    name: str
    upper: Path
    lower: list[Path]
    seconds: float = 0.0
    bytes: int = 0
    environment: dict[str, str] = field(default_factory=dict)


def build(file: Dockerfile, context: Path, scratch: Path) -> list[Layer]:
    """Run all stages; the last layer is the image's. Of `scratch` only the base is kept from an earlier run."""
    base = Layer("base", scratch / "base", [])
    began = time.monotonic()
    bootstrap(base.upper, file.arguments["BASE"])
    base.seconds, base.bytes = time.monotonic() - began, size_of(base.upper)
    print(f"image-root: base, {base.bytes / 1e6:.0f} MB in {base.seconds:.0f} s", flush=True)
    shutil.rmtree(scratch / "stages", ignore_errors=True)
    layers = [base]
    for number, stage in enumerate(file.stages):
        below = parent(stage, file, layers)
        layer = Layer(
            stage.name or "image", scratch / "stages" / f"{number}" / "upper", [below.upper, *below.lower]
        )
        layer.environment = dict(below.environment)
        layer.upper.mkdir(parents=True)
        began = time.monotonic()
        with mounted(layer, scratch / "stages" / f"{number}") as root:
            _Steps(root, layer, context, {one.name: one for one in layers}, file.arguments).run(stage)
        layer.seconds, layer.bytes = time.monotonic() - began, size_of(layer.upper)
        layers.append(layer)
        print(f"image-root: {layer.name}, {layer.bytes / 1e6:.0f} MB in {layer.seconds:.0f} s", flush=True)
    return layers


def parent(stage: Stage, file: Dockerfile, layers: list[Layer]) -> Layer:
    wanted = expand(stage.base, file.arguments)
    return next((one for one in layers if one.name == wanted), layers[0])


def bootstrap(base: Path, image: str) -> None:
    """A minimal Debian of the release in the image's tag, from the archives that this machine uses itself."""
    if (base / "etc" / "debian_version").exists():
        return
    release = re.search(r":([a-z]+)", image)
    if release is None:
        raise SystemExit(f"image-root: no Debian release in the base {image}")
    found = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(IDENTIFIER)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    targets = sorted({tuple(line.split()[:2]) for line in found.stdout.splitlines() if line.endswith(" Packages")})
    ours = [(uri, suite) for uri, suite in targets if suite.partition("-")[0] == release[1]]
    main = [uri for uri, suite in ours if suite == release[1]]
    if not main:
        raise SystemExit(f"image-root: this machine's apt knows no archive of Debian {release[1]}")
    shutil.rmtree(base, ignore_errors=True)
    base.mkdir(parents=True)
    subprocess.run(
        ["debootstrap", "--variant=minbase", release[1], str(base), main[0]], check=True, stdout=subprocess.DEVNULL
    )
    shutil.rmtree(base / "var/lib/apt/lists")
    for archive in (base / "var/cache/apt/archives").glob("*.deb"):
        archive.unlink()
    (base / "etc/apt/sources.list").write_text("".join(f"deb {uri} {suite} main\n" for uri, suite in ours))
    (base / "etc/apt/apt.conf.d/docker-clean").write_text(NO_CACHE)
    (base / "etc/dpkg/dpkg.cfg.d/docker").write_text(SLIM)


@contextmanager
def mounted(layer: Layer, scratch: Path) -> Iterator[Path]:
    """The layer on what is below it, as one folder, for the length of the block."""
    root, work = scratch / "root", scratch / "work"
    for folder in (root, work):
        folder.mkdir(exist_ok=True)
    lower = ":".join(str(one) for one in layer.lower)
    options = f"lowerdir={lower},upperdir={layer.upper},workdir={work}"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, str(root)], check=True)
    try:
        yield root
    finally:
        subprocess.run(["umount", "--recursive", str(root)], check=True)


@contextmanager
def entered(root: Path) -> Iterator[None]:
    """What an engine gives to a step: `/proc`, `/dev`, `/run`, `/tmp`, the name servers. Nothing of it stays."""
    mounts = [
        ("proc", ["-t", "proc", "proc"]),
        ("dev", ["--rbind", "/dev"]),
        ("run", ["-t", "tmpfs", "tmpfs"]),
        ("tmp", ["-t", "tmpfs", "tmpfs"]),
    ]
    resolver = root / "etc/resolv.conf"
    before = resolver.read_bytes() if resolver.exists() else None
    with ExitStack() as stack:
        for where, arguments in mounts:
            subprocess.run(["mount", *arguments, str(root / where)], check=True)
            stack.callback(subprocess.run, ["umount", "--recursive", "--lazy", str(root / where)], check=True)
        shutil.copyfile("/etc/resolv.conf", resolver)
        yield
    resolver.write_bytes(before or b"")


class _Steps:
    """The steps of one stage."""

    def __init__(
        self, root: Path, layer: Layer, context: Path, stages: Mapping[str, Layer], arguments: Mapping[str, str]
    ) -> None:
        self.root, self.layer, self.context, self.stages = root, layer, context, stages
        self.outer = arguments
        self.arguments: dict[str, str] = {}
        self.folder, self.shell = "/", ["/bin/sh", "-c"]

    def run(self, stage: Stage) -> None:
        steps = {"RUN": self._run, "COPY": self._copy, "WORKDIR": self._workdir, "SHELL": self._shell}
        steps |= {"ENV": self._env, "ARG": self._arg}
        for instruction in stage.instructions:
            if instruction.keyword in steps:
                steps[instruction.keyword](instruction)

    @property
    def values(self) -> dict[str, str]:
        return {**self.arguments, **self.layer.environment}

    def _env(self, instruction: Instruction) -> None:
        self.layer.environment |= {n: expand(v, self.values) for n, v in instruction.pairs().items()}

    def _arg(self, instruction: Instruction) -> None:
        self.arguments |= {name: value or self.outer.get(name, "") for name, value in instruction.pairs().items()}

    def _shell(self, instruction: Instruction) -> None:
        self.shell = instruction.array()

    def _workdir(self, instruction: Instruction) -> None:
        self.folder = os.path.join(self.folder, expand(instruction.text, self.values))  # noqa: PTH118 - of the root
        self._inside(self.folder).mkdir(parents=True, exist_ok=True)

    def _inside(self, path: str) -> Path:
        return self.root / os.path.join(self.folder, path).lstrip("/")  # noqa: PTH118 - of the root

    def _run(self, instruction: Instruction) -> None:
        environment = {"PATH": PATH, "HOME": "/root", **self.values, **registries()}
        with entered(self.root):
            certificates = self.root / CERTIFICATES.lstrip("/")
            certificates.parent.mkdir()
            shutil.copyfile("/etc/ssl/certs/ca-certificates.crt", certificates)
            inside = ["chroot", str(self.root), "/usr/bin/env", f"--chdir={self.folder}"]
            done = subprocess.run(
                [*inside, *self.shell, instruction.text],
                env=environment,
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        if done.returncode:
            sys.stderr.write(done.stdout.decode(errors="replace")[-8000:])
            raise SystemExit(f"image-root: the step of line {instruction.line} failed: RUN {instruction.text}")

    def _copy(self, instruction: Instruction) -> None:
        words = [expand(word, self.values) for word in instruction.words()]
        flags = [word for word in words if word.startswith("--")]
        *sources, target = [word for word in words if not word.startswith("--")]
        stage = next((flag.partition("=")[2] for flag in flags if flag.startswith("--from=")), None)
        if len(flags) > (stage is not None):
            raise SystemExit(f"image-root: line {instruction.line}: only COPY --from is known here")
        destination = self._inside(target)
        for source in sources:
            if stage is None:
                found = self.context / source
                if not sent(source, self.context):
                    raise SystemExit(f"image-root: line {instruction.line}: .dockerignore keeps {source} back")
            else:
                found = self.stages[stage].upper / source.lstrip("/")
            onto = destination / found.name if target.endswith("/") and not found.is_dir() else destination
            onto.parent.mkdir(parents=True, exist_ok=True)
            if found.is_dir():
                left_out = shutil.ignore_patterns("__pycache__", "*.pyc") if stage is None else None
                shutil.copytree(found, onto, symlinks=True, dirs_exist_ok=True, ignore=left_out)
            else:
                shutil.copy2(found, onto)


def registries() -> dict[str, str]:
    """How this machine reaches its registries, for a step's environment: a builder has that from outside."""
    names = ("PIP_INDEX_URL", "npm_config_registry", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
    given = {name: os.environ[name] for name in names if name in os.environ}
    for name in ("PIP_CERT", "SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "npm_config_cafile"):
        given[name] = CERTIFICATES
    return given


def sent(path: str, context: Path) -> bool:
    """Whether `.dockerignore` lets a path of the context through: the last pattern that fits it decides."""
    through = True
    for line in (context / ".dockerignore").read_text().splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        wanted, pattern = not pattern.startswith("!"), pattern.removeprefix("!").rstrip("/")
        parts = path.removeprefix("./").split("/")
        if any(fnmatch("/".join(parts[: end + 1]), pattern) for end in range(len(parts))):
            through = not wanted
    return through


def size_of(folder: Path) -> int:
    """What the files below `folder` take on the disk, one with several names counted once."""
    found = subprocess.run(["du", "--summarize", "--block-size=1", str(folder)], capture_output=True, check=True)
    return int(found.stdout.split()[0])
