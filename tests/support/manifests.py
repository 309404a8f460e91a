"""The files of `deploy/`: compose files with their variables, kustomizations rendered."""

import copy
import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.support.needed import needed
from tests.support.workers import ROOT

DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"

Manifest = dict[str, Any]


def tool(name: str) -> str:
    """Return the path of a program. Without it tests fail in CI, and are skipped elsewhere."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.is_file() else shutil.which(name)
    return needed(found, name)


def compose(environ: Mapping[str, str]) -> Manifest:
    """Return `deploy/compose.yaml` with variables from ``environ``; raises ``KeyError``."""

    def value(match: re.Match[str]) -> str:
        return "$" if match[0] == "$$" else environ[match["name"]]

    text = (DEPLOY / "compose.yaml").read_text()
    text = re.sub(r"\$\$|\$\{(?P<name>\w+)[^}]*\}", value, text)
    loaded: Manifest = yaml.safe_load(text)
    return loaded


def container_environ(service: Manifest, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a service of the compose file, whose `.env` is ``environ``."""
    files = service.get("env_file", [])
    assert files in ([], [".env"]), files
    given = dict(environ) if files else {}
    return given | {name: str(value) for name, value in service["environment"].items()}


def example_environ() -> list[str]:
    """Return the variables of `.env.example`."""
    lines = (DEPLOY / ".env.example").read_text().splitlines()
    return [line.partition("=")[0] for line in lines if line and not line.startswith("#")]


def rendered(folder: Path) -> list[Manifest]:
    """Return the output of `kustomize build` for a folder of ours.

    Supported are resources, generated config maps, labels, images and JSON patches. Anything else
    is an ``AssertionError``. The hash in the name of a config map differs from that of `kustomize`.
    """
    said = yaml.safe_load((folder / "kustomization.yaml").read_text())
    known = {
        "apiVersion", "kind", "resources", "configMapGenerator", "labels", "images", "patches"
    }  # fmt: skip
    assert said.keys() <= known, said.keys() - known
    made: list[Manifest] = []
    for name in said["resources"]:
        path = folder / name
        assert path.exists(), path
        made += rendered(path) if path.is_dir() else list(yaml.safe_load_all(path.read_text()))
    for wanted in said.get("configMapGenerator", ()):
        _generate(made, folder, wanted)
    for wanted in said.get("labels", ()):
        for each in made:
            each["metadata"].setdefault("labels", {}).update(wanted["pairs"])
    for wanted in said.get("images", ()):
        _set_image(made, wanted)
    for wanted in said.get("patches", ()):
        _patch(made, wanted)
    return made


def one(manifests: list[Manifest], kind: str) -> Manifest:
    """Return the only manifest of a kind."""
    (found,) = (each for each in manifests if each["kind"] == kind)
    return found


def pod_selectors(manifests: list[Manifest]) -> list[dict[str, str]]:
    """Return the labels by which Deployment, Service and other manifests select the pods."""
    deployment = one(manifests, "Deployment")["spec"]
    return [
        deployment["selector"]["matchLabels"],
        one(manifests, "Service")["spec"]["selector"],
        one(manifests, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        one(manifests, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        *(
            each["labelSelector"]["matchLabels"]
            for each in deployment["template"]["spec"]["topologySpreadConstraints"]
        ),
    ]


def _generate(made: list[Manifest], folder: Path, wanted: Manifest) -> None:
    text = "\n".join((folder / name).read_text() for name in wanted["envs"])
    data = dict(line.split("=", 1) for line in text.splitlines() if line)
    name = f"{wanted['name']}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"
    for each in made:
        _rename(each, wanted["name"], name)
    made.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})


def _rename(value: Any, old: str, new: str) -> None:
    if isinstance(value, list):
        for each in value:
            _rename(each, old, new)
    elif isinstance(value, dict):
        reference = value.get("configMapRef")
        if reference and reference["name"] == old:
            reference["name"] = new
        for each in value.values():
            _rename(each, old, new)


def _set_image(made: list[Manifest], wanted: Manifest) -> None:
    containers = [
        container
        for each in made
        if each["kind"] == "Deployment"
        for container in each["spec"]["template"]["spec"]["containers"]
    ]
    found = [each for each in containers if each["image"] == wanted["name"]]
    assert found, f"no container has the image {wanted['name']}"
    for each in found:
        each["image"] = f"{wanted['name']}:{wanted['newTag']}"


def _patch(made: list[Manifest], wanted: Manifest) -> None:
    target = wanted["target"]
    version = "/".join(filter(None, (target.get("group"), target["version"])))
    identity = (version, target["kind"], target["name"])
    (found,) = (
        each
        for each in made
        if (each["apiVersion"], each["kind"], each["metadata"]["name"]) == identity
    )
    for step in yaml.safe_load(wanted["patch"]):
        *way, last = step["path"].strip("/").split("/")
        place = found
        for part in way:
            place = place[part]
        assert step["op"] == "remove", "the only operation that we use"
        del place[last]


def without_hashes(manifests: list[Manifest]) -> dict[tuple[str, str], Manifest]:
    """Return manifests by kind and name, without hashes in names: to compare two renderings."""

    def cut(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: cut(each) for key, each in value.items()}
        if isinstance(value, list):
            return [cut(each) for each in value]
        return (
            re.sub(r"^(berlin-(?:worker|gateway))-[a-z0-9]{10}$", r"\1", value)
            if isinstance(value, str)
            else value
        )

    cleaned = [cut(copy.deepcopy(each)) for each in manifests]
    return {(each["kind"], each["metadata"]["name"]): each for each in cleaned}


def run(*command: object) -> str:
    """Return the output of a command that must succeed."""
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
