"""`make image-root`: builds the image's root without an engine and tries a town in it (docs/how-to/image.md)."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tools.image import dockerfile
from tools.image.build import Layer, build, entered, mounted
from tools.image.trial import Trial, try_town

REPOSITORY = Path(__file__).parents[2]
LAYERS = "layers.json"


def main() -> int:
    parser = argparse.ArgumentParser(prog="tools/image-root", description=__doc__)
    parser.add_argument(
        "--scratch", type=Path, default=REPOSITORY / ".tools" / "image", help="where the root is made"
    )
    parser.add_argument("--keep", action="store_true", help="try the town in the root that was built before")
    parser.add_argument("--phase", choices=["build", "try"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("image-root: needs root: it mounts and changes roots")
    missing = [name for name in ("debootstrap", "unshare", "nsenter", "chroot") if shutil.which(name) is None]
    if missing:
        raise SystemExit(f"image-root: install these first: {', '.join(missing)}")
    file = dockerfile.read(REPOSITORY / "Dockerfile")
    if options.phase is None:
        for phase, spaces in (("build", ["--mount"]), ("try", ["--mount", "--net"])):
            if not (phase == "build" and options.keep):
                again = [sys.executable, "-m", "tools.image", "--scratch", str(options.scratch), "--phase", phase]
                code = subprocess.run(["unshare", *spaces, *again], check=False, cwd=REPOSITORY).returncode
                if code:
                    return code
        return 0
    options.scratch.mkdir(parents=True, exist_ok=True)
    if options.phase == "build":
        build_all(file, options.scratch)
    else:
        try_all(file, options.scratch)
    return 0


def build_all(file: dockerfile.Dockerfile, scratch: Path) -> None:
    layers = build(file, REPOSITORY, scratch)
    image = layers[-1]
    print(f"image-root: the image, {(layers[0].bytes + image.bytes) / 1e6:.0f} MB unpacked")
    with mounted(image, image.upper.parent) as root, entered(root):
        check_files(root)
    known = {
        "environment": image.environment,
        "upper": str(image.upper),
        "lower": [str(one) for one in image.lower],
    }
    (scratch / LAYERS).write_text(json.dumps(known))


def check_files(root: Path) -> None:
    """No cache, no list of packages, no address of a registry in the image; all programs that agents expect, and
    the licences of what Debian does not bring.
    """
    caches = ["var/lib/apt/lists", "var/cache/apt/archives", "root/.cache", "root/.npm", "tmp"]
    left = [str(path) for cache in caches for path in (root / cache).rglob("*") if path.is_file()]
    if left:
        raise SystemExit(f"image-root: caches are left in the image: {left[:5]}")
    homes = ["opt/kilo", "usr/local/share/doc/node", "usr/local/lib/node_modules/npm"]
    if bare := [home for home in homes if not (root / home / "LICENSE").is_file()]:
        raise SystemExit(f"image-root: without a LICENSE: {bare}")
    programs = [
        "git --version",
        "git lfs version",
        "gh --version",
        "rg --version",
        "jq --version",
        "curl --version",
    ]
    programs += ["cc --version", "make --version", "node --version", "npm --version", "python3 --version"]
    programs += ["python3 -m venv --help", "kilo --version", "gastown --version", "tini --version"]
    for program in programs:
        command = ["chroot", str(root), *program.split()]
        found = subprocess.run(
            command, env={"PATH": os.environ["PATH"], "HOME": "/tmp"}, capture_output=True, check=False
        )
        if found.returncode:
            raise SystemExit(f"image-root: {program}: {found.stderr.decode()}")
        print(f"image-root: {program}: {found.stdout.decode().splitlines()[0]}")


def try_all(file: dockerfile.Dockerfile, scratch: Path) -> None:
    known = json.loads((scratch / LAYERS).read_text())
    image = Layer("image", Path(known["upper"]), [Path(one) for one in known["lower"]])
    image.environment = known["environment"]
    trials = scratch / "trials"
    shutil.rmtree(trials, ignore_errors=True)
    for name, in_a_pod in {"compose.yaml": False, "the Pod template": True}.items():
        report(name, try_town(file.image, image, trials / str(in_a_pod), in_a_pod=in_a_pod))


def report(name: str, seen: Trial) -> None:
    print(f"\nimage-root: a town as {name} runs it", flush=True)
    for key, value in seen.items():
        lines = value if isinstance(value, list) else [value]
        print(f"  {key:28} {lines[0] if lines else 'none'}")
        for line in lines[1:]:
            print(f"  {'':28} {line}")
    if seen["exit code"] != 0 or not seen["drained in time"] or seen["zombies with an orphan gone"]:
        raise SystemExit(f"image-root: the town as {name} runs it did not end as it should")


if __name__ == "__main__":
    raise SystemExit(main())
