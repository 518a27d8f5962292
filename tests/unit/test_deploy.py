"""deploy/ names only what the code has, and says all that a container must be told."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from gastown.concurrency import shutdown
from gastown.concurrency.loop_watch import STUCK_SECONDS
from gastown.contract.secret import Secret
from gastown.control.app import ROUTES
from gastown.hall.cli import up
from gastown.hall.hall import HallOptions, open_hall
from gastown.metrics.table import METRICS
from gastown.settings import Settings

REPOSITORY = Path(__file__).parents[2]
DEPLOY = REPOSITORY / "deploy"
KUBERNETES, CLOUDFLARE = DEPLOY / "kubernetes", DEPLOY / "cloudflare"
LOCKS = {"package.json", "package-lock.json", "tsconfig.json"}

SETTINGS = {name.upper() for name in Settings.model_fields}
SECRETS = {name.upper() for name, field in Settings.model_fields.items() if Secret in get_args(field.annotation)}
PORT = Settings.model_fields["gastown_control_port"].default
CPU_SECONDS_OF_A_START = 4
USUAL_SERVERS, BYTES_OF_A_SERVER, BYTES_OF_THE_CONTROL_SERVER = 4, 760e6, 70e6
"""The mayor and three agents; each as large as docs/how-to/image.md found it after its first turn."""
DRAIN = Settings.model_fields["gastown_drain_seconds"].default
PATHS = {(route.method, route.path) for route in ROUTES}
SAMPLES = {sample: metric for metric in METRICS.values() for sample in metric.samples}

GIVEN_FROM_OUTSIDE = {
    "AGENT_IDLE_TIMEOUT_MS",
    "GASTOWN_API_URL",
    "GASTOWN_ATTACH_TOKEN",
    "GASTOWN_CONTAINER_TOKEN",
    "GASTOWN_CONTROL_TOKEN",
    "GASTOWN_DRAIN_SECONDS",
    "GASTOWN_ORGANIZATION_ID",
    "GASTOWN_READ_TOKEN",
    "GASTOWN_SERVER_RSS_MB",
    "GASTOWN_SESSION_TOKEN",
    "GASTOWN_SPAWN_SLOTS",
    "GASTOWN_TOWN_ID",
    "KILOCODE_TOKEN",
    "KILO_API_URL",
    "KILO_CLOUD_URL",
    "REFINERY_IDLE_TIMEOUT_MS",
}
"""What the contract gives a container, and what fits it to its cores and memory.

KILO_OPENROUTER_BASE is left out, because kilo 7.7.7 does not read it.
"""


def files() -> list[Path]:
    found = [path for path in DEPLOY.rglob("*") if path.is_file() and "node_modules" not in path.parts]
    return sorted(path for path in found if path.name not in LOCKS and path.suffix != ".pyc")


@cache
def objects(path: Path) -> tuple[Any, ...]:
    return tuple(yaml.safe_load_all(path.read_text("utf-8")))


def one(path: Path, kind: str) -> dict[str, Any]:
    return next(item for item in objects(path) if item["kind"] == kind)


def pod() -> dict[str, Any]:
    spec: dict[str, Any] = one(KUBERNETES / "base/town.yaml", "StatefulSet")["spec"]["template"]["spec"]
    return spec


def container() -> dict[str, Any]:
    (found,) = pod()["containers"]
    return dict(found)


def settings_of_the_pod() -> dict[str, str]:
    (made,) = objects(KUBERNETES / "base/kustomization.yaml")[0]["configMapGenerator"]
    return dict(literal.split("=", 1) for literal in made["literals"])


def secrets_of_the_pod() -> dict[str, str]:
    text = (KUBERNETES / "overlays/one-town/town.env.example").read_text("utf-8")
    return dict(line.split("=", 1) for line in text.splitlines() if line and not line.startswith("#"))


def compose(service: str) -> dict[str, Any]:
    found: dict[str, Any] = objects(DEPLOY / "compose.yaml")[0]["services"][service]
    return found


def worker() -> str:
    return "".join(path.read_text("utf-8") for path in sorted((CLOUDFLARE / "src").glob("*.ts")))


def wrangler() -> dict[str, Any]:
    text = (CLOUDFLARE / "wrangler.jsonc").read_text("utf-8")
    found: dict[str, Any] = json.loads(re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE))
    return found


def names_of_the_worker(group: str) -> set[str]:
    found = re.search(rf"const {group} = \[([^\]]*)\]", worker())
    assert found is not None
    return set(re.findall(r'"(\w+)"', found[1]))


def alerts() -> list[dict[str, Any]]:
    groups = objects(DEPLOY / "prometheus/rules.yml")[0]["groups"]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


def alert(name: str) -> dict[str, Any]:
    (found,) = [rule for rule in alerts() if rule["alert"] == name]
    return found


def queries() -> Iterator[tuple[str, str]]:
    """Where and what: each query of the rules, the board and the worker."""
    for group in objects(DEPLOY / "prometheus/rules.yml")[0]["groups"]:
        for rule in group["rules"]:
            yield rule.get("alert") or rule["record"], rule["expr"]
    for panel in json.loads((DEPLOY / "grafana/town.json").read_text("utf-8"))["panels"]:
        for target in panel.get("targets", []):
            yield f"panel {panel['title']}", target["expr"]
    for test in objects(DEPLOY / "prometheus/rules_test.yml")[0]["tests"]:
        for series in test["input_series"]:
            yield f"test {test['name']}", series["series"]
    (asked,) = re.findall(r"\^(gastown_[a-z_]+\\\{[^}]*)\\\}", worker())
    yield "the worker", re.sub(r"\\\{(\w+)=\"\(([^)]*)\)\"", r'{\1=~"\2"}', asked)


@pytest.mark.parametrize("path", files(), ids=lambda path: path.relative_to(DEPLOY).as_posix())
def test_every_variable_in_a_file_is_a_setting(path: Path) -> None:
    text = path.read_text("utf-8")
    named = set(re.findall(r"\b(?:(?:GASTOWN|KILO|KILOCODE)_[A-Z_]+|[A-Z]+_IDLE_TIMEOUT_MS)\b", text))
    assert named - SETTINGS == set()


def test_what_is_called_given_from_outside_are_settings() -> None:
    assert set() == GIVEN_FROM_OUTSIDE - SETTINGS


def test_a_pod_is_told_all_that_the_contract_gives() -> None:
    assert settings_of_the_pod().keys() | secrets_of_the_pod().keys() == GIVEN_FROM_OUTSIDE


@pytest.mark.parametrize("token", [None, "kilo-secret"], ids=["the stand-in", "a gateway of one's own"])
async def test_a_town_of_compose_is_told_all_that_the_contract_gives(tmp_path: Path, token: str | None) -> None:
    """Some of it stands in the file that the hall writes for its town."""
    given = {"KILOCODE_TOKEN": token or "", "GASTOWN_ORGANIZATION_ID": "org", "KILO_API_URL": "https://llm.test"}
    named = {*given, "GASTOWN_GATEWAY_URL"}
    assert compose("hall")["environment"] == {name: f"${{{name}:-}}" for name in named}
    options = HallOptions(
        data_dir=tmp_path, kilocode_token=Secret(token) if token else None, organization_id="org"
    )
    async with open_hall(options) as hall:
        lines = (await up._variables(hall, {"KILO_API_URL": given["KILO_API_URL"]})).splitlines()
        by_the_hall = dict(line.split("=", 1) for line in lines)
        assert by_the_hall["KILO_API_URL"] == (given["KILO_API_URL"] if token else hall.url)
    told = compose("town")["environment"].keys()
    assert GIVEN_FROM_OUTSIDE - told - by_the_hall.keys() == set()
    assert told <= GIVEN_FROM_OUTSIDE


def test_a_container_of_cloudflare_is_told_all_that_the_contract_gives() -> None:
    shared, own = names_of_the_worker("SHARED"), names_of_the_worker("OWN")
    assert shared | own | {"GASTOWN_TOWN_ID"} == GIVEN_FROM_OUTSIDE
    assert wrangler()["vars"].keys() == shared - SECRETS


def test_no_secret_has_a_value() -> None:
    assert SECRETS & {"GASTOWN_CONTROL_TOKEN", "KILOCODE_TOKEN"}
    assert set(secrets_of_the_pod().values()) == {"replace-me"}
    assert secrets_of_the_pod().keys() == SECRETS & GIVEN_FROM_OUTSIDE
    assert not SECRETS & settings_of_the_pod().keys()
    assert not SECRETS & wrangler()["vars"].keys()
    for service in ("hall", "town"):
        given = compose(service)["environment"]
        assert all(given[name].startswith(f"${{{name}:") for name in SECRETS & given.keys())


def test_every_deployment_has_the_default_budget_for_the_drain_and_more_time_than_it_takes() -> None:
    """The server itself ends what hangs, some seconds after the budget; only after that may the engine kill it."""
    enough = DRAIN + shutdown._LAST_RESORT_SECONDS
    assert float(settings_of_the_pod()["GASTOWN_DRAIN_SECONDS"]) == DRAIN
    assert float(wrangler()["vars"]["GASTOWN_DRAIN_SECONDS"]) == DRAIN
    assert compose("town")["environment"]["GASTOWN_DRAIN_SECONDS"] == f"${{GASTOWN_DRAIN_SECONDS:-{DRAIN:g}}}"
    assert pod()["terminationGracePeriodSeconds"] > enough
    assert float(compose("town")["stop_grace_period"].removesuffix("s")) > enough


def test_servers_that_start_together_on_what_a_pod_asks_for_keep_the_deadline_of_a_spawn() -> None:
    """A container sees the cores of its node, whatever it asks for; so each deployment says how many may start."""
    cores = float(container()["resources"]["requests"]["cpu"].removesuffix("m")) / 1000
    slots = int(settings_of_the_pod()["GASTOWN_SPAWN_SLOTS"])
    assert slots * CPU_SECONDS_OF_A_START / cores < Settings.model_fields["gastown_spawn_seconds"].default
    assert wrangler()["vars"]["GASTOWN_SPAWN_SLOTS"] == "2"  # the cores of its instance type
    assert compose("town")["environment"]["GASTOWN_SPAWN_SLOTS"] == "${GASTOWN_SPAWN_SLOTS:-}"


def test_every_port_is_the_one_that_the_server_listens_on() -> None:
    (named,) = container()["ports"]
    (service,) = one(KUBERNETES / "base/town.yaml", "Service")["spec"]["ports"]
    (policy,) = one(KUBERNETES / "namespace/network.yaml", "NetworkPolicy")["spec"]["ingress"]
    assert named["containerPort"] == service["port"] == policy["ports"][0]["port"] == PORT
    assert service["targetPort"] == named["name"]
    assert compose("hall")["ports"] == [f"127.0.0.1:{PORT}:{PORT}"]
    assert f"defaultPort = {PORT};" in worker()


def test_every_probe_asks_a_path_that_is_served() -> None:
    probes = {name: probe["httpGet"] for name, probe in container().items() if name.endswith("Probe")}
    assert {name: probe["path"] for name, probe in probes.items()} == {
        "startupProbe": "/health",
        "readinessProbe": "/readyz",
        "livenessProbe": "/livez",
    }
    assert {probe["port"] for probe in probes.values()} == {"control"}
    asked = {("GET", probe["path"]) for probe in probes.values()}
    asked |= {("GET", path) for path in re.findall(r'localhost(/\w+)"', worker())}
    (agent_drain,) = re.findall(
        rf"--request (\w+) http://127\.0\.0\.1:{PORT}(/\w+)",
        container()["lifecycle"]["preStop"]["exec"]["command"][-1],
    )
    assert (asked | {agent_drain}) - PATHS == set()


def test_a_loop_that_is_stuck_for_a_minute_is_restarted_without_the_time_of_a_drain() -> None:
    """Docs/adr/0035 says why; `preStop` has to fit in, because it comes first."""
    (agent_drain,) = re.findall(r"--max-time (\d+)", container()["lifecycle"]["preStop"]["exec"]["command"][-1])
    liveness = container()["livenessProbe"]
    assert int(agent_drain) < liveness["terminationGracePeriodSeconds"] <= 15
    assert liveness["failureThreshold"] * liveness["periodSeconds"] == 60
    assert STUCK_SECONDS <= liveness["timeoutSeconds"] < liveness["periodSeconds"]


def test_a_pod_and_a_service_of_compose_have_the_same_least_rights() -> None:
    security, town = container()["securityContext"], compose("town")
    assert security["capabilities"]["drop"] == town["cap_drop"] == ["ALL"]
    assert security["capabilities"]["add"] == town["cap_add"]
    assert security["allowPrivilegeEscalation"] is False
    assert security["readOnlyRootFilesystem"] is town["read_only"] is True
    assert "no-new-privileges:true" in town["security_opt"]
    assert pod()["automountServiceAccountToken"] is pod()["hostUsers"] is False


def test_a_town_cannot_reach_the_metadata_service() -> None:
    egress = one(KUBERNETES / "namespace/network.yaml", "NetworkPolicy")["spec"]["egress"]
    blocks = [peer["ipBlock"] for rule in egress for peer in rule["to"] if "ipBlock" in peer]
    assert [block["cidr"] for block in blocks] == ["0.0.0.0/0", "2000::/3"]
    assert "169.254.0.0/16" in blocks[0]["except"]


def test_the_quota_holds_as_many_towns_as_cloudflare_may_run() -> None:
    hard = one(KUBERNETES / "overlays/many-towns/quota.yaml", "ResourceQuota")["spec"]["hard"]
    requests, limits = container()["resources"]["requests"], container()["resources"]["limits"]
    towns = int(hard["pods"])
    assert towns == int(hard["count/statefulsets.apps"]) == wrangler()["containers"][0]["max_instances"] == 500
    assert float(hard["requests.cpu"]) == towns * float(requests["cpu"].removesuffix("m")) / 1000
    for name in ("memory", "ephemeral-storage"):
        assert gibibytes(hard[f"requests.{name}"]) == towns * gibibytes(requests[name])
        assert gibibytes(hard[f"limits.{name}"]) == towns * gibibytes(limits[name])


def gibibytes(text: str) -> int:
    return int(text.removesuffix("Gi"))


def test_a_town_of_cloudflare_sleeps_after_ten_minutes() -> None:
    (class_name,) = re.findall(r"export class (\w+) extends Container", worker())
    assert 'sleepAfter = "10m";' in worker()
    assert wrangler()["containers"][0]["class_name"] == class_name
    assert wrangler()["durable_objects"]["bindings"] == [{"name": "TOWNS", "class_name": class_name}]
    assert wrangler()["migrations"][-1]["new_sqlite_classes"] == [class_name]


def test_a_town_of_cloudflare_sleeps_only_if_every_agent_is_idle_or_waits_for_somebody() -> None:
    (at_work,) = re.findall(r'\^gastown_agent_conditions\\{condition="\(([^)]*)\)"', worker())
    conditions = set(METRICS["gastown_agent_conditions"].labels["condition"])
    assert conditions - set(at_work.split("|")) == {"idle", "waiting", "other"}


def test_a_pod_asks_for_the_memory_of_a_usual_town_and_may_use_what_that_town_can_grow_to() -> None:
    resources, grown = container()["resources"], int(settings_of_the_pod()["GASTOWN_SERVER_RSS_MB"]) * 2**20
    asked, limit = (gibibytes(resources[kind]["memory"]) * 2**30 for kind in ("requests", "limits"))
    assert asked >= BYTES_OF_THE_CONTROL_SERVER + USUAL_SERVERS * BYTES_OF_A_SERVER
    assert 0.9 * limit >= BYTES_OF_THE_CONTROL_SERVER + USUAL_SERVERS * grown
    assert wrangler()["vars"]["GASTOWN_SERVER_RSS_MB"] == settings_of_the_pod()["GASTOWN_SERVER_RSS_MB"]


def test_the_alert_for_memory_knows_the_limit_of_the_pod() -> None:
    rule = alert("GastownMemoryFull")
    limit = gibibytes(container()["resources"]["limits"]["memory"])
    assert f"* {limit} * 2 ^ 30" in rule["expr"]
    assert f"{limit} GiB" in rule["annotations"]["summary"]


def test_alerts_are_evaluated_as_often_as_towns_are_scraped_and_as_their_tests_say() -> None:
    """What a drain shows at its end is there for two scrapes; at the default of a minute it is missed."""
    (configured,) = objects(DEPLOY / "prometheus/prometheus.yml")
    (scrape,) = configured["scrape_configs"]
    (tried,) = objects(DEPLOY / "prometheus/rules_test.yml")
    assert configured["global"]["evaluation_interval"] == scrape["scrape_interval"] == tried["evaluation_interval"]


def test_every_metric_that_is_asked_for_is_in_the_table() -> None:
    asked = {
        (where, name) for where, text in queries() for name in re.findall(r"(?<!:)\b(?:gastown|process)_\w+", text)
    }
    assert len(asked) > 50
    assert {(where, name) for where, name in asked if name not in SAMPLES} == set()


def test_every_label_that_is_asked_for_has_that_value_in_the_table() -> None:
    """`town` and `job` come from who scrapes, `le` from the histogram."""
    strays = []
    for where, text in queries():
        for name, matchers in re.findall(r"(?<!:)\b((?:gastown|process)_\w+)\{([^}]*)\}", text):
            for label, values in re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"', matchers):
                if label in {"town", "job", "le"}:
                    continue
                known = SAMPLES[name].labels.get(label)
                if known is None or not set(values.split("|")) <= set(known):
                    strays.append((where, name, label, values))
    assert strays == []


def test_every_label_that_is_grouped_by_is_one_of_what_is_asked_for() -> None:
    strays = []
    for where, text in queries():
        names = re.findall(r"(?<!:)\b((?:gastown|process)_\w+)", text)
        known = {label for name in names for label in SAMPLES[name].labels} | {"town"}
        known |= {"le"} if any(name.endswith("_bucket") for name in names) else set()
        known |= {"job"} if "up{" in text else set()
        if stray := grouped_by(text) - known:
            strays.append((where, text, stray))
    assert strays == []


def test_every_label_that_is_shown_is_left_by_its_query() -> None:
    """In the legend of a panel and in the summary of an alert."""
    board = json.loads((DEPLOY / "grafana/town.json").read_text("utf-8"))["panels"]
    shown = [
        (target["expr"], target.get("legendFormat", "")) for panel in board for target in panel.get("targets", [])
    ]
    shown += [(rule["expr"], rule["annotations"]["summary"]) for rule in alerts()]
    strays = []
    for text, told in shown:
        labels = set(re.findall(r"\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}", told))
        if stray := labels - {"town"} - (grouped_by(text) - {"le"}):
            strays.append((text, told, stray))
    assert len(shown) > 50
    assert strays == []


def grouped_by(query: str) -> set[str]:
    found = re.findall(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^()]*)\)", query)
    return {label.strip() for labels in found for label in labels.split(",")} - {""}


def test_every_alert_is_tried_and_says_what_to_do() -> None:
    tried = (DEPLOY / "prometheus/rules_test.yml").read_text("utf-8")
    headings = re.findall(r"^## (\w+)$", (REPOSITORY / "docs/how-to/alerts.md").read_text("utf-8"), re.MULTILINE)
    assert [rule["alert"] for rule in alerts()] == headings
    for rule in alerts():
        assert f"alertname: {rule['alert']}\n" in tried
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert rule["annotations"]["runbook"] == f"docs/how-to/alerts.md#{rule['alert'].lower()}"
