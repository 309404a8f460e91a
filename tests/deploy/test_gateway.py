"""The manifests, unit and proxy settings of the gateway, against its own settings. Offline."""

import json
import re
from typing import Any

import pytest
import yaml

from berlin_worker.config.gateway_settings import GatewaySettings
from berlin_worker.gateway.keys import KeyFile
from berlin_worker.settings import Settings
from tests.support.manifests import (
    DEPLOY,
    KUBERNETES,
    compose,
    example_environ,
    one,
    pod_selectors,
    rendered,
    run,
    tool,
)

pytestmark = pytest.mark.unit

FOLDER = KUBERNETES / "gateway"


@pytest.fixture(scope="module")
def manifests() -> list[dict[str, Any]]:
    return rendered(FOLDER)


@pytest.fixture(scope="module")
def pod(manifests: list[dict[str, Any]]) -> dict[str, Any]:
    template: dict[str, Any] = one(manifests, "Deployment")["spec"]["template"]
    return template


def container_of(pod: dict[str, Any]) -> dict[str, Any]:
    (container,) = pod["spec"]["containers"]
    return dict(container)


def test_every_selector_finds_the_pods_of_the_gateway_and_no_worker(manifests, pod):
    labels = pod["metadata"]["labels"].items()
    worker = one(rendered(KUBERNETES / "base"), "Deployment")["spec"]["template"]
    selectors = pod_selectors(manifests)
    assert all(selector.items() <= labels for selector in selectors)
    assert not any(
        selector.items() <= worker["metadata"]["labels"].items() for selector in selectors
    )
    account = one(manifests, "ServiceAccount")["metadata"]["name"]
    assert pod["spec"]["serviceAccountName"] == account


def test_autoscaler_alone_sets_the_number_of_replicas(manifests):
    scaler, deployment = one(manifests, "HorizontalPodAutoscaler"), one(manifests, "Deployment")
    assert scaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert "replicas" not in deployment["spec"]
    assert scaler["spec"]["minReplicas"] > 1


def test_ports_of_all_manifests_are_those_of_the_command(manifests, pod):
    container = container_of(pod)
    [port] = container["ports"]
    assert f"--port={port['containerPort']}" in container["args"]
    assert pod["metadata"]["annotations"]["prometheus.io/port"] == str(port["containerPort"])
    [served] = one(manifests, "Service")["spec"]["ports"]
    [allowed] = one(manifests, "NetworkPolicy")["spec"]["ingress"]
    assert served["targetPort"] == port["name"] == allowed["ports"][0]["port"]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["port"] == port["name"]


def test_settings_are_settings_of_the_gateway(manifests, pod):
    known = {str(field.validation_alias) for field in Settings.model_fields.values()}
    data = one(manifests, "ConfigMap")["data"]
    named = {*data, *(each["name"] for each in container_of(pod)["env"])}
    assert named <= known
    own = {str(field.validation_alias) for field in GatewaySettings.model_fields.values()}
    assert {name for name in data if name.startswith("WORKER_GATEWAY")} <= own
    settings = Settings.from_env(data)
    defaults = Settings()
    assert settings.gateway_wait_s == defaults.gateway_wait_s
    assert settings.gateway_abandon_s == defaults.gateway_abandon_s


def test_pod_keeps_the_restricted_security_standard(pod):
    spec, container = pod["spec"], container_of(pod)
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert {"hostNetwork", "hostPID", "hostIPC"}.isdisjoint(spec)
    assert [each.keys() - {"name"} for each in spec["volumes"]] == [{"secret"}]
    context = container["securityContext"]
    assert context["allowPrivilegeEscalation"] is False
    assert context["readOnlyRootFilesystem"] is True
    assert context["capabilities"] == {"drop": ["ALL"]}


def test_example_secret_has_what_the_pod_reads(manifests, pod):
    assert not [each for each in manifests if each["kind"] == "Secret"]
    path = FOLDER / "secret.example.yaml"
    run(tool("kubernetes-validate"), "--strict", path)
    secret = yaml.safe_load(path.read_text())
    references = [
        each["valueFrom"]["secretKeyRef"]
        for each in container_of(pod)["env"]
        if "valueFrom" in each
    ]
    [volume] = pod["spec"]["volumes"]
    assert {each["name"] for each in references} | {volume["secret"]["secretName"]} == {
        secret["metadata"]["name"]
    }
    needed = {each["key"] for each in references if not each.get("optional")}
    needed |= {each["key"] for each in volume["secret"]["items"]}
    assert secret["stringData"].keys() == needed
    whole = yaml.safe_load(re.sub(r"(?m)^  # (?=[a-z-]+: \S+$)", "  ", path.read_text()))
    assert whole["stringData"].keys() - needed == {"celery-broker-url"}
    keys = secret["stringData"]["keys.json"].replace("CHANGE-ME", "0" * 64)
    KeyFile.model_validate(json.loads(keys))
    [mount] = container_of(pod)["volumeMounts"]
    [item] = volume["secret"]["items"]
    given = {each["name"]: each.get("value") for each in container_of(pod)["env"]}
    assert given["WORKER_GATEWAY_KEYS"] == f"{mount['mountPath']}/{item['path']}"


def test_ingress_streams_and_waits_longer_than_the_gateway(manifests):
    path = FOLDER / "ingress.example.yaml"
    run(tool("kubernetes-validate"), "--strict", path)
    ingress = yaml.safe_load(path.read_text())
    prefix = "nginx.ingress.kubernetes.io/"
    said = {
        name.removeprefix(prefix): value
        for name, value in ingress["metadata"]["annotations"].items()
    }
    assert said["proxy-buffering"] == "off"
    assert int(said["proxy-read-timeout"]) > Settings().gateway_wait_s
    assert int(said["proxy-body-size"].rstrip("m")) * 2**20 > Settings().max_job_bytes
    [rule] = ingress["spec"]["rules"]
    paths = rule["http"]["paths"]
    assert "/metrics" not in {each["path"] for each in paths}
    service = one(manifests, "Service")
    for each in paths:
        assert each["backend"]["service"] == {
            "name": service["metadata"]["name"],
            "port": {"name": service["spec"]["ports"][0]["name"]},
        }


def test_supervisors_wait_until_chats_have_ended(manifests, pod):
    drain_s = float(one(manifests, "ConfigMap")["data"]["WORKER_DRAIN_TIMEOUT_S"])
    command = container_of(pod)["lifecycle"]["preStop"]["exec"]["command"]
    [pause_s] = re.findall(r"sleep\((\d+)\)", command[-1])
    assert pod["spec"]["terminationGracePeriodSeconds"] >= drain_s + int(pause_s) + 5
    stack = compose(dict.fromkeys(example_environ(), "x"))["services"]["gateway"]
    assert float(stack["stop_grace_period"].rstrip("s")) >= Settings().drain_timeout_s + 5
    unit = (DEPLOY / "systemd/berlin-gateway.service").read_text()
    [drain], [stop] = (
        re.findall(rf"{name}=(\d+)", unit) for name in ("WORKER_DRAIN_TIMEOUT_S", "TimeoutStopSec")
    )
    assert int(stop) >= int(drain) + 5
