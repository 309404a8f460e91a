"""Every file of deploy/ against the format that its reader expects. Offline, without containers."""

import re

import pytest
import yaml

from berlin_worker.settings import Settings
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

UNIT = DEPLOY / "systemd" / "berlin-worker.service"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))


def test_dockerfile_follows_the_rules_for_dockerfiles():
    run(tool("hadolint"), DEPLOY / "Dockerfile")


@pytest.mark.parametrize("name", ["compose.yaml", "compose.cluster.yaml"])
def test_compose_file_fits_its_schema(name):
    schema = "vendor.compose-spec"
    run(tool("check-jsonschema"), "--builtin-schema", schema, DEPLOY / name)


def test_nodes_of_the_cluster_are_confined_and_all_else_has_their_urls():
    text = (DEPLOY / "compose.cluster.yaml").read_text()
    services = yaml.safe_load(re.sub(r"\$\{(\w+):[^}]*\}", r"\1", text))["services"]
    users = {name: services.pop(name)["environment"] for name in ("worker", "gateway")}
    nodes = [name for name in services if name != "create-cluster"]
    for service in services.values():
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
        assert service["image"] in (DEPLOY / "compose.yaml").read_text()
        assert "ports" not in service
    for user, environment in users.items():
        settings = Settings.from_env(environment)
        login = f"{user}:{user.upper()}_PASSWORD@"
        assert settings.redis_url.startswith(f"redis+cluster://{login}node-1:6379,")
        assert settings.broker_url == f"redis://{login}redis:6379/0"
    assert services["create-cluster"]["command"][2:] == [f"{name}:6379" for name in nodes]


def test_example_names_each_variable_of_the_compose_file():
    used = set(re.findall(r"\$\{(\w+)", (DEPLOY / "compose.yaml").read_text()))
    assert used == set(example_environ())


def test_metrics_port_is_the_same_in_every_file():
    said = {
        "image": re.findall(r"WORKER_HTTP_PORT=(\d+)", (DEPLOY / "Dockerfile").read_text()),
        "unit": re.findall(r"WORKER_HTTP_PORT=(\d+) ", UNIT.read_text()),
        "README": re.findall(r"WORKER_HTTP_PORT=(\d+)", (DEPLOY / "README.md").read_text()),
        "manifest": [one(rendered(KUBERNETES / "base"), "ConfigMap")["data"]["WORKER_HTTP_PORT"]],
    }
    assert {name: set(ports) for name, ports in said.items()} == {key: {"9464"} for key in said}
    stack = compose(dict.fromkeys(example_environ(), "x"))["services"]["worker"]
    assert "WORKER_HTTP_PORT" not in stack["environment"], "the image sets it"


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_systemd_accepts_the_unit(tmp_path, path):
    analyze = tool("systemd-analyze")
    unit = tmp_path / path.name
    # systemd-analyze checks that the program exists.
    unit.write_text(path.read_text().replace("/opt/berlin/bin/berlin", tool("berlin")))
    run(analyze, "verify", unit)
    level = run(analyze, "security", "--offline=true", "--no-pager", "--threshold=20", unit)
    assert "OK" in level or "SAFE" in level


def test_supervisors_wait_for_the_drain_of_a_worker():
    """Check that supervisors allow the drain, twice the clean-up, and the last events."""
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
