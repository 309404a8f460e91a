"""Every file of deploy/ against the format that its reader expects. Offline, without containers."""

import json
import re
import shutil
import subprocess

import pytest
import yaml
from click.testing import CliRunner

from berlin_schemas import names
from berlin_worker.cli import main
from berlin_worker.settings import Settings
from tests.support.manifests import (
    DEPLOY,
    compose,
    example_environ,
    one,
    rendered,
    tool,
    without_hashes,
)

pytestmark = pytest.mark.unit

KUBERNETES = DEPLOY / "kubernetes"
ALERTS = DEPLOY / "prometheus" / "alerts.yml"
UNIT = DEPLOY / "systemd" / "berlin-worker.service"
FOREIGN_KINDS = {"ScaledObject", "TriggerAuthentication", "PodMonitor", "PrometheusRule"}
"""KEDA's and the Prometheus Operator's: their schemas are in no package."""
FOLDERS = ["base", "overlays/keda", "overlays/hpa", "overlays/prometheus-operator"]


def run(*command: object) -> str:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_dockerfile_follows_the_rules_for_dockerfiles():
    run(tool("hadolint"), DEPLOY / "Dockerfile")


def test_the_compose_file_fits_its_schema():
    schema = "vendor.compose-spec"
    run(tool("check-jsonschema"), "--builtin-schema", schema, DEPLOY / "compose.yaml")


def test_the_example_names_each_variable_of_the_compose_file():
    used = set(re.findall(r"\$\{(\w+)", (DEPLOY / "compose.yaml").read_text()))
    assert used == set(example_environ())


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_rendered_manifests_fit_the_api_of_kubernetes(tmp_path, folder):
    manifests = rendered(KUBERNETES / folder)
    assert any(each["kind"] == "Deployment" for each in manifests)
    path = tmp_path / "rendered.yaml"
    path.write_text(
        yaml.safe_dump_all(each for each in manifests if each["kind"] not in FOREIGN_KINDS)
    )
    run(tool("kubernetes-validate"), "--strict", path)


@pytest.mark.parametrize("folder", FOLDERS)
def test_our_rendering_is_that_of_kustomize(folder):
    """Where somebody has it; Debian 12's is too old, and the test above goes by our rendering."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("no kubectl")
    theirs = list(yaml.safe_load_all(run(kubectl, "kustomize", KUBERNETES / folder)))
    assert without_hashes(rendered(KUBERNETES / folder)) == without_hashes(theirs)


def test_keda_alone_sets_the_number_of_replicas():
    manifests = rendered(KUBERNETES / "overlays" / "keda")
    scaled, deployment = one(manifests, "ScaledObject"), one(manifests, "Deployment")
    assert scaled["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert "replicas" not in deployment["spec"]
    triggers = scaled["spec"]["triggers"]
    formula = scaled["spec"]["advanced"]["scalingModifiers"]["formula"]
    assert {each["name"] for each in triggers} == set(re.findall(r"\w+", formula))
    authentication = one(manifests, "TriggerAuthentication")["metadata"]["name"]
    assert {each["authenticationRef"]["name"] for each in triggers} == {authentication}


def test_autoscaler_alone_sets_the_number_of_replicas():
    manifests = rendered(KUBERNETES / "overlays" / "hpa")
    scaler, deployment = one(manifests, "HorizontalPodAutoscaler"), one(manifests, "Deployment")
    assert scaler["spec"]["scaleTargetRef"] == {
        "apiVersion": deployment["apiVersion"],
        "kind": "Deployment",
        "name": deployment["metadata"]["name"],
    }
    assert "replicas" not in deployment["spec"]
    assert scaler["spec"]["minReplicas"] > 0


def test_pod_monitor_scrapes_the_port_of_the_workers_under_the_job_of_the_alerts():
    manifests = rendered(KUBERNETES / "overlays" / "prometheus-operator")
    monitor, pod = one(manifests, "PodMonitor"), one(manifests, "Deployment")["spec"]["template"]
    labels = pod["metadata"]["labels"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert labels[monitor["spec"]["jobLabel"]] == "berlin-worker"
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    (container,) = pod["spec"]["containers"]
    assert endpoint["port"] in {port["name"] for port in container["ports"]}
    assert endpoint["path"] == "/metrics"


def test_prometheus_rule_has_the_alerts_that_prometheus_has():
    rule = one(rendered(KUBERNETES / "overlays" / "prometheus-operator"), "PrometheusRule")
    assert rule["spec"] == yaml.safe_load(ALERTS.read_text()), "run `make manifests`"


def test_example_secret_has_the_keys_that_the_deployment_reads(tmp_path):
    path = KUBERNETES / "secret.example.yaml"
    run(tool("kubernetes-validate"), "--strict", path)
    text = path.read_text()
    (container,) = one(rendered(KUBERNETES / "base"), "Deployment")["spec"]["template"]["spec"][
        "containers"
    ]
    references = [each["valueFrom"]["secretKeyRef"] for each in container["env"]]
    secret = yaml.safe_load(text)
    assert {each["name"] for each in references} == {secret["metadata"]["name"]}
    needed = {each["key"] for each in references if not each.get("optional")}
    assert secret["stringData"].keys() == needed
    # With the commented lines, it has every key.
    whole = yaml.safe_load(re.sub(r"(?m)^  # (?=[a-z-]+: \S+$)", "  ", text))
    assert whole["stringData"].keys() == {each["key"] for each in references}
    assert all("CHANGE-ME" in value for value in whole["stringData"].values())


def test_one_port_serves_metrics_everywhere():
    said = {
        "image": re.findall(r"WORKER_HTTP_PORT=(\d+)", (DEPLOY / "Dockerfile").read_text()),
        "unit": re.findall(r"WORKER_HTTP_PORT=(\d+) ", UNIT.read_text()),
        "README": re.findall(r"WORKER_HTTP_PORT=(\d+)", (DEPLOY / "README.md").read_text()),
        "manifest": [one(rendered(KUBERNETES / "base"), "ConfigMap")["data"]["WORKER_HTTP_PORT"]],
    }
    assert {name: set(ports) for name, ports in said.items()} == {key: {"9464"} for key in said}
    stack = compose(dict.fromkeys(example_environ(), "x"))["services"]["worker"]
    assert "WORKER_HTTP_PORT" not in stack["environment"], "the image sets it"


def test_the_settings_of_the_manifests_are_settings_of_the_worker():
    known = {field.validation_alias for field in Settings.model_fields.values()}
    data = one(rendered(KUBERNETES / "base"), "ConfigMap")["data"]
    (container,) = one(rendered(KUBERNETES / "base"), "Deployment")["spec"]["template"]["spec"][
        "containers"
    ]
    stack = compose(dict.fromkeys(example_environ(), "x"))
    environment = stack["services"]["worker"]["environment"]
    environment = {name: value for name, value in environment.items() if value}
    named = {*data, *(each["name"] for each in container["env"]), *environment}
    assert named <= known
    Settings.from_env({name: str(value) for name, value in {**data, **environment}.items()})


def test_every_selector_finds_the_pods_of_the_deployment():
    manifests = rendered(KUBERNETES / "base")
    pod = one(manifests, "Deployment")["spec"]["template"]
    labels = pod["metadata"]["labels"].items()
    selectors = [
        one(manifests, "Deployment")["spec"]["selector"]["matchLabels"],
        one(manifests, "Service")["spec"]["selector"],
        one(manifests, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        one(manifests, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        *(
            each["labelSelector"]["matchLabels"]
            for each in pod["spec"]["topologySpreadConstraints"]
        ),
    ]
    assert all(selector.items() <= labels for selector in selectors)
    account = one(manifests, "ServiceAccount")["metadata"]["name"]
    assert pod["spec"]["serviceAccountName"] == account


def test_manifests_hold_no_secret():
    manifests = rendered(KUBERNETES / "overlays" / "keda")
    assert not [each for each in manifests if each["kind"] == "Secret"]
    (container,) = one(manifests, "Deployment")["spec"]["template"]["spec"]["containers"]
    private = {"REDIS_URL", "CELERY_BROKER_URL", "BERLIN_ACCOUNT", "BERLIN_PASSWORD"}
    given = {each["name"]: each for each in container["env"]}
    assert private <= given.keys()
    assert all("secretKeyRef" in each["valueFrom"] for each in given.values())


def test_the_pods_keep_the_restricted_security_standard():
    pod = one(rendered(KUBERNETES / "base"), "Deployment")["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert {"hostNetwork", "hostPID", "hostIPC", "volumes"}.isdisjoint(pod)
    for container in pod["containers"]:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}


def test_prometheus_takes_its_configuration_and_the_rules():
    promtool = tool("promtool")
    run(promtool, "check", "config", DEPLOY / "prometheus" / "prometheus.yml")
    run(promtool, "check", "rules", "--lint=all", "--lint-fatal", ALERTS)


def test_every_alert_fires_when_it_should_and_not_before(tmp_path):
    cases = yaml.safe_load((DEPLOY.parent / "tests" / "deploy" / "alerts.yml").read_text())
    rules = {
        each["alertname"]
        for case in cases["tests"]
        for each in case["alert_rule_test"]
        if each.get("exp_alerts")
    }
    alerts = {rule["alert"] for rule in yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]}
    assert rules == alerts
    for case in cases["tests"]:
        for each in case["alert_rule_test"]:
            for expected in each.get("exp_alerts", ()):
                expected["exp_annotations"]["runbook_url"] = runbook_url(each["alertname"])
    cases["rule_files"] = [str(ALERTS)]
    path = tmp_path / "cases.yml"
    path.write_text(yaml.safe_dump(cases))
    run(tool("promtool"), "test", "rules", path)


def runbook_url(alert: str) -> str:
    return f"deploy/README.md#{alert.lower()}"


def test_every_alert_links_to_its_section_of_the_runbook():
    headings = re.findall(r"^### (\w+)", (DEPLOY / "README.md").read_text(), re.MULTILINE)
    rules = yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]
    assert {rule["alert"] for rule in rules} <= set(headings)
    for rule in rules:
        assert rule["annotations"]["runbook_url"] == runbook_url(rule["alert"])


def test_every_command_of_the_runbook_exists():
    text = (DEPLOY / "README.md").read_text()
    for command in set(re.findall(r"\bberlin ((?:dead )?[a-z]+(?: --[a-z-]+)*)\b", text)):
        words = [word for word in command.split() if not word.startswith("--")]
        done = CliRunner().invoke(main, [*words, "--help"])
        assert done.exit_code == 0, command
        assert all(word in done.output for word in command.split() if word.startswith("--"))


def test_systemd_takes_the_unit(tmp_path):
    analyze = tool("systemd-analyze")
    unit = tmp_path / UNIT.name
    # It looks whether the program is there.
    unit.write_text(UNIT.read_text().replace("/opt/berlin/bin/berlin", tool("berlin")))
    run(analyze, "verify", unit)
    level = run(analyze, "security", "--offline=true", "--no-pager", "--threshold=20", unit)
    assert "OK" in level or "SAFE" in level


def test_supervisors_wait_for_the_drain_of_a_worker():
    """Supervisors allow the drain, twice the clean-up, and the last events."""
    from berlin_worker import service
    from berlin_worker.pool import shutdown

    stack = compose(dict.fromkeys(example_environ(), "x"))["services"]["worker"]
    deployment = one(rendered(KUBERNETES / "base"), "Deployment")["spec"]["template"]["spec"]
    data = one(rendered(KUBERNETES / "base"), "ConfigMap")["data"]
    unit = dict(
        line.split("=", 1) for line in UNIT.read_text().splitlines() if re.match(r"\w+=", line)
    )
    unit_drain_s = re.search(r"WORKER_DRAIN_TIMEOUT_S=(\d+)", unit["Environment"])
    assert unit_drain_s
    pairs = [
        (Settings().drain_timeout_s, stack["stop_grace_period"].rstrip("s")),
        (data["WORKER_DRAIN_TIMEOUT_S"], deployment["terminationGracePeriodSeconds"]),
        (unit_drain_s[1], unit["TimeoutStopSec"]),
    ]
    for drain_s, grace_s in pairs:
        needed_s = float(drain_s) + 2 * shutdown.CLEANUP_TIMEOUT_S + service._CLOSE_S
        assert float(grace_s) >= needed_s
        assert float(drain_s) == Settings().drain_timeout_s


def test_the_dashboard_shows_every_panel_in_a_place_of_its_own():
    board = json.loads((DEPLOY / "grafana" / "dashboards" / "berlin.json").read_text())
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    places = [
        (x, y)
        for panel in board["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(places)) == len(places)
    assert max(x for x, _ in places) < 24


def test_grafana_finds_dashboard_and_data_source_where_compose_puts_them():
    services = compose(dict.fromkeys(example_environ(), "x"))["services"]
    mounts = dict(each.split(":")[:2] for each in services["grafana"]["volumes"])
    (provider,) = yaml.safe_load(
        (DEPLOY / "grafana" / "provisioning" / "dashboards" / "berlin.yaml").read_text()
    )["providers"]
    assert mounts["./grafana/dashboards"] == provider["options"]["path"]
    (source,) = yaml.safe_load(
        (DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yaml").read_text()
    )["datasources"]
    board = (DEPLOY / "grafana" / "dashboards" / "berlin.json").read_text()
    assert set(re.findall(r'"uid": "([^"]+)"', board)) == {"${datasource}", "berlin-worker"}
    variable = json.loads(board)["templating"]["list"][0]
    assert (variable["name"], variable["type"]) == ("datasource", "datasource")
    assert (variable["query"], variable["current"]["value"]) == (source["type"], source["uid"])
    assert source["url"] == "http://prometheus:9090"
    (scraped,) = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())[
        "scrape_configs"
    ]
    (found,) = scraped["dns_sd_configs"]
    assert found["names"] == ["worker"]
    assert found["port"] == 9464


def test_autoscaler_counts_the_keys_of_the_queue():
    from berlin_worker.celery import app

    triggers = one(rendered(KUBERNETES / "overlays" / "keda"), "ScaledObject")["spec"]["triggers"]
    counted = {each["name"]: each["metadata"]["listName"] for each in triggers}
    held = app.conf.broker_transport_options["unacked_key"]
    assert counted == {"queued": names.QUEUE, "running": held}
