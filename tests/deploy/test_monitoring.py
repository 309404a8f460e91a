"""The files for Prometheus and Grafana: configuration, alerts, runbook, dashboard. Offline."""

import json
import re

import pytest
import yaml
from click.testing import CliRunner

from berlin_worker.cli import main
from tests.support.manifests import (
    DEPLOY,
    KUBERNETES,
    compose,
    example_environ,
    one,
    rendered,
    run,
    tool,
)

pytestmark = pytest.mark.unit

ALERTS = DEPLOY / "prometheus" / "alerts.yml"


@pytest.mark.parametrize(
    ("job", "folder"), [("berlin-worker", "base"), ("berlin-gateway", "gateway")]
)
def test_pod_monitor_scrapes_the_port_of_the_pods_under_the_job_of_the_alerts(job, folder):
    manifests = rendered(KUBERNETES / "overlays" / "prometheus-operator")
    (monitor,) = (
        each
        for each in manifests
        if each["kind"] == "PodMonitor" and each["metadata"]["name"] == job
    )
    pod = one(rendered(KUBERNETES / folder), "Deployment")["spec"]["template"]
    labels = pod["metadata"]["labels"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert labels[monitor["spec"]["jobLabel"]] == job
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    (container,) = pod["spec"]["containers"]
    assert endpoint["port"] in {port["name"] for port in container["ports"]}
    assert endpoint["path"] == "/metrics"


def test_prometheus_rule_has_the_alerts_that_prometheus_has():
    rule = one(rendered(KUBERNETES / "overlays" / "prometheus-operator"), "PrometheusRule")
    assert rule["spec"] == yaml.safe_load(ALERTS.read_text()), "run `make manifests`"


def test_prometheus_accepts_its_configuration_and_the_rules():
    promtool = tool("promtool")
    run(promtool, "check", "config", DEPLOY / "prometheus" / "prometheus.yml")
    run(promtool, "check", "rules", "--lint=all", "--lint-fatal", ALERTS)


def test_every_alert_fires_at_its_time_and_not_before(tmp_path):
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


def test_panels_of_the_dashboard_do_not_overlap():
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


def test_grafana_finds_dashboard_and_data_source_at_the_paths_of_compose():
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
    scraped = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    found = {
        (name, each["port"])
        for job in scraped["scrape_configs"]
        for each in job["dns_sd_configs"]
        for name in each["names"]
    }
    assert found == {("worker", 9464), ("gateway", 8080)}
    assert {name for name, _ in found} <= services.keys()
