"""`deploy/redis/users.acl` on a real server: each service does its work as its own user."""

import asyncio
import json

import aiohttp
import pytest
from celery import Celery

from berlin_schemas import names
from berlin_worker.client import AsyncClient, JobIdReused, Unavailable
from berlin_worker.gateway.server import open_gateway, serving
from berlin_worker.settings import Settings
from tests.support.acl import OTHERS_JOB, as_producer, as_subscriber, celery_cli, cli, top_of
from tests.support.checker import text_of
from tests.support.fleet import QUICK_LEASES, prompt
from tests.support.http import PORT, scrape, url_of, value
from tests.support.workers import wait_until

pytestmark = pytest.mark.integration


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


async def test_gateway_works_as_its_own_user(guarded, fleet):
    url = guarded.url("gateway")
    settings = Settings(redis_url=url, broker_url=url, default_provider="echo")
    gateway = open_gateway(settings, "127.0.0.1", warn=lambda _: None)
    messages = {"messages": [{"role": "user", "content": "hello"}]}
    async with (
        serving(gateway, "127.0.0.1", 0) as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}/", raise_for_status=True) as http,
    ):
        with fleet.worker("-c", "4"):
            body = {**messages, "provider": "echo", "model": "m", "stream": True}
            key = {"Idempotency-Key": "c"}
            async with http.post("v1/chat/completions", json=body, headers=key) as reply:
                assert "data: [DONE]" in await reply.text()
            body = {**messages, "provider": "echo"}
            async with http.post("v1/jobs", json=body, headers={"Idempotency-Key": "k"}) as reply:
                job = (await reply.json())["job_id"]
            async with http.get(f"v1/jobs/{job}/events") as reply:
                assert "event: completed" in await reply.text()
            async with http.get(f"v1/jobs/{job}/events?after=2&wait_s=5") as reply:
                assert (await reply.json())["ended"] is True
            async with http.get(f"v1/jobs/{job}") as reply:
                assert (await reply.json())["result"]["text"] == "hello"
        async with http.post("v1/jobs", json=messages) as reply:
            job = (await reply.json())["job_id"]
        async with http.post(f"v1/jobs/{job}/cancel"):
            pass
        for path in ("v1/jobs", "v1/jobs?status=queued", "v1/models", "readyz", "metrics", "/"):
            async with http.get(path):
                pass
        async with http.get("v1/fleet") as reply:
            assert (await reply.json())["waiting"] is not None
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


async def test_reader_without_a_right_to_records_waits_for_a_job_that_is_queued(guarded, fleet):
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


def test_worker_counts_queue_and_dead_letters_by_its_own_rights(guarded, fleet):
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


def test_worker_has_the_rights_to_fall_back_and_to_let_a_model_cool_down(guarded, fleet):
    fallbacks = [{"provider": "echo", "model": "echo", "options": {}}]
    job = prompt("[[status:429:1000]] hello", fallbacks=fallbacks)
    with fleet.worker():
        events = fleet.ended(fleet.send(job))
        assert [each.get("provider") for each in events if each["type"] != "chunk"] == [
            *("berlin", "echo", "echo")
        ]
        [key] = fleet.redis.scan_iter("limit:*")
        assert 0 < fleet.redis.ttl(key) <= 1000
        calls = len(fleet.upstream.calls)
        assert [each["type"] for each in fleet.ended(fleet.send(job))][:2] == ["started", "chunk"]
        assert len(fleet.upstream.calls) == calls
    assert guarded.denials() == []


def test_worker_has_the_right_to_dead_letter_garbage(guarded, fleet):
    with fleet.worker():
        fleet.redis.lpush("prompts", "garbage")
        wait_until(lambda: fleet.redis.xlen("worker:dead") == 1, "a dead letter")
        fleet.send(prompt("x"), task_id="no job id")
        wait_until(lambda: fleet.redis.xlen("worker:dead") == 2, "another")
    assert guarded.denials() == []


def test_operator_examines_and_replays_and_asks_the_workers(guarded, fleet):
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
        with Celery(broker=guarded.url("operator"), set_as_current=False) as app:
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


def test_doctor_passes_as_the_worker_user(guarded, fleet):
    doctor = cli(guarded, "worker", "doctor", "--no-login")
    assert doctor.returncode == 0, doctor.stdout
    assert guarded.denials() == []


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


def test_subscriber_follows_jobs_from_a_terminal(guarded, fleet):
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
