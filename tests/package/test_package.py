"""What is built: what is in it, what is not, and that two builds are one."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from packaging.metadata import Metadata

from gastown import __version__
from tests.package.build import REPOSITORY, build

INFO = f"gastown-{__version__}.dist-info"
SHIPPED = {".py", ".md", ".js", ".json", ".typed", ".html", ".css", ".svg"}


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    return build("wheel", REPOSITORY, tmp_path / "wheel")


@pytest.fixture
def sdist(tmp_path: Path) -> Path:
    return build("sdist", REPOSITORY, tmp_path / "sdist")


def files_of_the_package() -> set[str]:
    """What git has, or would take, below src/gastown."""
    asked = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "src/gastown"]
    listed = subprocess.run(asked, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    names = [Path(name) for name in listed.stdout.splitlines()]
    return {str(name.relative_to("src")) for name in names if (REPOSITORY / name).is_file()}


def test_the_wheel_holds_the_whole_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    about = {f"{INFO}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt")}
    licences = {f"{INFO}/licenses/{name}" for name in ("LICENSE", "THIRD-PARTY-NOTICES")}
    assert names == files_of_the_package() | about | licences
    assert {Path(name).suffix for name in names if name.startswith("gastown/")} - SHIPPED == set()


def test_the_wheel_holds_what_is_no_python(wheel: Path) -> None:
    """By name, so that a rule which leaves them out is seen even if git leaves them out too."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    wanted = {
        "hall/prompts/mayor.md",
        "kilo/plugin/gastown.js",
        "kilo/plugin/tools.json",
        "py.typed",
    }
    assert {f"gastown/{name}" for name in wanted} - names == set()


def test_two_builds_give_the_same_bytes(wheel: Path, sdist: Path, tmp_path: Path) -> None:
    again = (build("wheel", REPOSITORY, tmp_path / "w2"), build("sdist", REPOSITORY, tmp_path / "s2"))
    assert [path.read_bytes() for path in again] == [wheel.read_bytes(), sdist.read_bytes()]


def test_the_sdist_builds_the_same_wheel(wheel: Path, sdist: Path, tmp_path: Path) -> None:
    shutil.unpack_archive(sdist, tmp_path / "unpacked")
    unpacked = tmp_path / "unpacked" / f"gastown-{__version__}"
    assert build("wheel", unpacked, tmp_path / "from-sdist").read_bytes() == wheel.read_bytes()


def test_the_sdist_holds_the_source_and_what_is_read_beside_it(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    beside = {"CHANGELOG.md", "LICENSE", "README.md", "THIRD-PARTY-NOTICES", "requirements-runtime.lock"}
    made = {"PKG-INFO", "pyproject.toml", ".gitignore"}
    assert names == {f"src/{name}" for name in files_of_the_package()} | beside | made


def test_the_wheels_metadata_is_what_the_specification_asks_for(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        metadata = Metadata.from_email(archive.read(f"{INFO}/METADATA"), validate=True)
    assert (metadata.name, str(metadata.version), metadata.license_expression) == ("gastown", __version__, "MIT")
    assert metadata.description == (REPOSITORY / "README.md").read_text("utf-8")
    assert metadata.description_content_type == "text/markdown"
    assert metadata.keywords
    assert "Typing :: Typed" in (metadata.classifiers or [])


def test_the_wheels_contents_are_in_order(wheel: Path) -> None:
    command = [sys.executable, "-m", "check_wheel_contents", str(wheel)]
    checked = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


def test_what_waits_for_the_next_release_says_something() -> None:
    """`make lint` checks the names of the fragments; this, that none is empty."""
    fragments = [path for path in (REPOSITORY / "changelog.d").iterdir() if path.name != "README.md"]
    assert [path.name for path in fragments if not path.read_text("utf-8").strip()] == []
