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
from berlin_worker.settings import Settings
from tests.support.cli import BERLIN
from tests.support.fork_server import run_python
from tests.support.workers import ROOT

MAKE_ACL = ROOT / "deploy" / "redis" / "acl"
USERS = ("producer", "subscriber", "gateway", "worker", "operator", "monitor")
OTHERS_JOB = "somebody-elses-job"
STATE, LOG = names.state_key(OTHERS_JOB), names.log_key(OTHERS_JOB)
TOKEN = "token:berlin:0123456789abcdef"


@dataclass(frozen=True)
class Guarded:
    """A server on which the ACL file holds, and a user of the test's own who may do all."""

    server: RedisProcess
    passwords: dict[str, str]

    def url(self, user: str) -> str:
        address = f"127.0.0.1:{self.server.port}/0"
        return f"redis://{user}:{self.passwords[user]}@{address}"

    def client(self, user: str) -> redis.Redis:
        return redis.Redis.from_url(self.url(user))

    def denials(self) -> list[str]:
        """What was refused since the last look."""
        with self.client("admin") as admin:
            log = admin.acl_log()
            admin.acl_log_reset()
        return [f"{e['username']}: {e['reason']} {e['object']} in {e['context']}" for e in log]


def make_acl(passwords: dict[str, str]) -> subprocess.CompletedProcess[str]:
    given = {f"{user.upper()}_PASSWORD": password for user, password in passwords.items()}
    return subprocess.run(
        [MAKE_ACL], env=os.environ | given, capture_output=True, text=True, check=False
    )


def as_producer(guarded) -> AsyncClient:
    return AsyncClient(guarded.url("producer"), settings=Settings())


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
    env = os.environ | {"REDIS_URL": guarded.url(user), "PYTHONPATH": str(ROOT)}
    return run_python(arguments, env=env, cwd=ROOT, timeout=60)
