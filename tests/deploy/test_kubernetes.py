"""The Kubernetes manifests against the API, kustomize and each other. Offline."""

import re
import shutil

import pytest
import yaml

from berlin_schemas import names
from berlin_worker.settings import Settings
from tests.support.manifests import (
    KUBERNETES,
    compose,
    example_environ,
    one,
    pod_selectors,
    rendered,
    run,
    tool,
    without_hashes,
)

pytestmark = pytest.mark.unit


FOREIGN_KINDS = {"ScaledObject", "TriggerAuthentication", "PodMonitor", "PrometheusRule"}
"""KEDA's and the Prometheus Operator's: their schemas are in no package."""
FOLDERS = ["base", "gateway", "overlays/keda", "overlays/hpa", "overlays/prometheus-operator"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_rendered_manifests_fit_the_api_of_kubernetes(tmp_path, folder):
    manifests = rendered(KUBERNETES / folder)
    assert any(each["kind"] == "Deployment" for each in manifests)
    path = tmp_path / "rendered.yaml"
    path.write_text(
        yaml.safe_dump_all(each for each in manifests if each["kind"] not in FOREIGN_KINDS)
    )
    run(tool("kubernetes-validate"), "--strict", path)


@pytest.mark.parametrize("folder", FOLDERS)
def test_rendering_matches_kustomize(folder):
    """Needs kubectl: Debian 12's kustomize is too old. Other tests use the project's rendering."""
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


def test_settings_of_the_manifests_are_settings_of_the_worker():
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
    selectors = pod_selectors(manifests)
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


def test_pods_keep_the_restricted_security_standard():
    pod = one(rendered(KUBERNETES / "base"), "Deployment")["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert {"hostNetwork", "hostPID", "hostIPC", "volumes"}.isdisjoint(pod)
    for container in pod["containers"]:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}


def test_autoscaler_counts_the_keys_of_the_queue():
    from berlin_worker.celery import app

    triggers = one(rendered(KUBERNETES / "overlays" / "keda"), "ScaledObject")["spec"]["triggers"]
    counted = {each["name"]: each["metadata"]["listName"] for each in triggers}
    held = app.conf.broker_transport_options["unacked_key"]
    assert counted == {"queued": names.QUEUE, "running": held}
