"""A Redis server with the ACL file of deploy/, and programs that run as its users."""

import json
import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import redis
import redis.asyncio

from berlin_schemas import names
from berlin_worker.client import AsyncClient, Options
from berlin_worker.embedded.redis_server import RedisProcess
from berlin_worker.embedded.topology import Cluster, Member, SentinelSet
from berlin_worker.settings import Settings
from berlin_worker.storage import connections
from tests.support.cli import BERLIN
from tests.support.fork_server import run_python
from tests.support.workers import ROOT

MAKE_ACL = ROOT / "deploy" / "redis" / "acl"
USERS = ("producer", "subscriber", "gateway", "worker", "operator", "monitor")
OTHERS_JOB = "somebody-elses-job"
STATE, LOG = names.state_key(OTHERS_JOB), names.log_key(OTHERS_JOB)
SENTINEL_USER = next(
    line.strip().replace("SECRET", "{}")
    for line in (ROOT / "deploy" / "README.md").read_text().splitlines()
    if line.startswith("  user watch ")
)
"""The user of Sentinels, as the documents show it."""
TOKEN = "token:berlin:0123456789abcdef"


@dataclass(frozen=True)
class Guarded:
    """A server with the ACL file, and a further user, ``admin``, who may do all."""

    server: RedisProcess
    passwords: dict[str, str]

    def url(self, user: str) -> str:
        address = f"127.0.0.1:{self.server.port}/0"
        return f"redis://{user}:{self.passwords[user]}@{address}"

    def broker_url(self, user: str) -> str:
        """Return the URL of the queue; empty if it is on the same server."""
        return ""

    def client(self, user: str) -> redis.Redis:
        return connections.blocking(self.url(user), timeout_s=10)

    def denials(self) -> list[str]:
        """Return what was refused since the last call."""
        with self.client("admin") as admin:
            return refused(admin)


@dataclass(frozen=True)
class GuardedTopology(Guarded):
    """Sentinels or a cluster whose servers have the same users; a cluster's queue is elsewhere."""

    topology: SentinelSet | Cluster

    def url(self, user: str) -> str:
        query = f"sentinel_username=watch&sentinel_password={self.passwords['watch']}"
        scheme, _, rest = self.topology.url.partition("://")
        if isinstance(self.topology, SentinelSet):
            rest = f"{rest}?{query}"
        return f"{scheme}://{user}:{self.passwords[user]}@{rest}"

    def broker_url(self, user: str) -> str:
        return super().url(user) if isinstance(self.topology, Cluster) else ""

    def denials(self) -> list[str]:
        found: list[str] = []
        for server in self.members():
            with server.client() as client:
                found += refused(client)
        if isinstance(self.topology, Cluster):
            with redis.Redis.from_url(self.broker_url("admin")) as broker:
                found += refused(broker)
        return found

    def members(self) -> list[Member]:
        """Return all servers, Sentinels among them."""
        sentinels = getattr(self.topology, "sentinels", [])
        return [*self.topology.servers, *sentinels]

    def add_users(self, acl: str) -> None:
        """Give all servers the users of an ACL file, and a Sentinel its own.

        The default user, as which servers talk to each other, keeps its rights.
        """
        for server in self.members():
            with server.client() as client:
                lines = [SENTINEL_USER.format(self.passwords["watch"])]
                if server in self.topology.servers:
                    lines = [f"user admin on >{self.passwords['admin']} ~* &* +@all"]
                    lines += [line for line in acl.splitlines() if "user default" not in line]
                for line in lines:
                    client.execute_command("ACL", "SETUSER", *_words(line)[1:])

    def remove_users(self) -> None:
        """Undo :meth:`add_users`."""
        for server in self.members():
            with server.client() as client:
                client.execute_command("ACL", "DELUSER", "admin", "watch", *USERS)


def refused(admin: redis.Redis) -> list[str]:
    """Return what a server has refused since the last call."""
    log: Any = admin.acl_log()
    admin.acl_log_reset()
    return [f"{e['username']}: {e['reason']} {e['object']} in {e['context']}" for e in log]


def _words(line: str) -> list[str]:
    """Return the words of a line of an ACL file; a selector in parentheses is one word."""
    return re.findall(r"\([^)]*\)|\S+", line)


def make_acl(passwords: dict[str, str]) -> subprocess.CompletedProcess[str]:
    given = {f"{user.upper()}_PASSWORD": password for user, password in passwords.items()}
    return subprocess.run(
        [MAKE_ACL], env=os.environ | given, capture_output=True, text=True, check=False
    )


def as_producer(guarded) -> AsyncClient:
    broker_url = guarded.broker_url("producer") or None
    return AsyncClient(guarded.url("producer"), broker_url, settings=Settings())


def as_subscriber(guarded) -> AsyncClient:
    options = Options(reread_after_s=0.2, wait_for_start_s=1)
    return AsyncClient(guarded.url("subscriber"), settings=Settings(), options=options)


def top_of(guarded: Guarded, user: str, *, capacity: int) -> dict[str, Any] | None:
    """Return the JSON of ``berlin top`` if it shows one worker of that capacity."""
    top = cli(guarded, user, "top", "--once", "--json")
    assert top.returncode == 0, top.stderr
    status = json.loads(top.stdout)
    return status if [worker["capacity"] for worker in status["workers"]] == [capacity] else None


NOPERM = re.compile(r"(?i)no permissions?|can't run this command|ACL failure in script")


def cli(guarded: Guarded, user: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return ran(guarded, user, [*BERLIN[1:], *arguments])


def celery_cli(guarded: Guarded, user: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return ran(guarded, user, ["-m", "celery", "-A", "berlin_worker", *arguments])


def ran(guarded: Guarded, user: str, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    urls = {"REDIS_URL": guarded.url(user), "CELERY_BROKER_URL": guarded.broker_url(user)}
    env = os.environ | urls | {"PYTHONPATH": str(ROOT)}
    return run_python(arguments, env=env, cwd=ROOT, timeout=60)
