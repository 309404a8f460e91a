"""RabbitMQ as the broker: delivery, crashes, shutdown and queue types, as on Redis."""

import json
import signal
import uuid
from contextlib import closing

import pytest
from amqp.exceptions import AMQPError
from celery import Celery

from berlin_schemas import names
from berlin_worker.broker.job_queue import CeleryJobQueue
from berlin_worker.cli.preflight import broker_problem
from berlin_worker.client import AsyncClient, Unavailable, queue_depth
from berlin_worker.embedded.redis_server import free_port
from berlin_worker.settings import Settings
from tests.support.checker import text_of
from tests.support.faulty_provider import installed
from tests.support.fleet import QUICK_LEASES, prompt, recorded
from tests.support.rabbitmq_queue import messages
from tests.support.workers import wait_until

pytestmark = pytest.mark.integration


def test_bare_producer_and_bare_subscriber_receive_the_bytes_of_the_log(fleet):
    early = fleet.send(prompt("before there is a worker"))  # so the producer declares the queue
    with fleet.worker("-c", "10"), recorded(fleet) as published:
        job_id = fleet.send(prompt("Grüße 🙂 and more"))
        events = fleet.ended(job_id)
        wait_until(lambda: len(published[job_id]) == len(events), "all on the channel")
        assert published[job_id] == fleet.log(job_id)
        assert text_of(fleet.ended(early)) == "echo of before there is a worker"
    assert [e["seq"] for e in events] == list(range(1, len(events) + 1))
    assert text_of(events) == "echo of Grüße 🙂 and more"


def test_workers_queue_suits_a_bare_producer_and_outlives_both(fleet, broker):
    with fleet.worker():
        pass
    job_id = fleet.send(prompt("x"))
    # Refused with PRECONDITION_FAILED if a single property differed: the default's, all of them.
    broker.channel().queue_declare("prompts", durable=True, exclusive=False, auto_delete=False)
    with fleet.worker():
        assert fleet.ended(job_id)[-1]["type"] == "completed"


def test_worker_takes_no_more_messages_than_it_runs(fleet, broker):
    endless = [fleet.send(prompt("[[endless]] [[delay:0.05]]")) for _ in range(5)]
    with fleet.worker("-c", "2"):
        wait_until(lambda: fleet.upstream.open_streams == 2, "two at work")
        # A message that is acknowledged late counts until its job is over.
        assert messages(broker) == 3
        for job_id in endless:
            fleet.redis.hset(f"job:{{{job_id}}}:state", "cancel", 1)
            fleet.redis.publish("job-control", json.dumps({"cancel": job_id}))
        for job_id in endless:
            assert fleet.ended(job_id)[-1]["type"] == "cancelled"


def test_killed_workers_job_is_restarted_elsewhere_once(fleet, broker):
    with fleet.worker() as first:
        dead = [fleet.send(prompt(f"[[stall:2*1]] job {n} a b c d")) for n in range(4)]
        for job_id in dead:
            fleet.running(job_id)
        first.process.send_signal(signal.SIGSTOP)
        with fleet.worker() as second:
            job_ids = [*dead, *(fleet.send(prompt("[[delay:0.1]] a b c d")) for _ in range(4))]
            first.kill()
            for job_id in dead:
                wait_until(lambda j=job_id: fleet.events(j)[-1]["attempt"] == 2, "restarted")
            for job_id in job_ids:
                events = fleet.ended(job_id)
                assert [e["seq"] for e in events] == list(range(1, len(events) + 1))
                assert [e["type"] for e in events].count("reset") == (job_id in dead)
                assert text_of(events).endswith(" a b c d")
            assert second.stop() == 0  # what is acknowledged has reached the broker
    assert messages(broker) == 0


def test_killed_workers_job_is_the_next_one_and_not_the_last(fleet):
    # Long enough that another worker is there before it has run out.
    lease = {**QUICK_LEASES, "WORKER_LEASE_S": "4"}
    with fleet.worker("-c", "1", **lease) as first:
        lost = fleet.send(prompt("[[stall:2*1]] lost a b c d"))
        fleet.running(lost)
        waiting = [fleet.send(prompt(f"job {n}")) for n in range(5)]
        first.kill()
    with fleet.worker("-c", "1", **lease):
        events = fleet.ended(lost)
        assert [e["type"] for e in events].count("reset") == 1
        for job_id in waiting:
            first_event, *_, last_event = fleet.ended(job_id)
            assert first_event["ts"] > events[-1]["ts"]
            assert last_event["type"] == "completed"


def test_hanging_worker_requeues_all_its_messages(fleet, broker, tmp_path):
    fleet.env |= installed(tmp_path)
    act = {"act": "block", "block_s": 20, "once": str(tmp_path / "once"), "delay_s": 0.1}
    with fleet.worker("-c", "50") as hung:
        blocker = fleet.send(prompt("one two three", provider="faulty", options=act))
        fleet.running(blocker)
        job_ids = [fleet.send(prompt(f"job {n}")) for n in range(10)]
        hung.wait_for_log("this worker hangs")
        with fleet.worker("-c", "50"):
            assert [fleet.ended(job_id)[-1]["type"] for job_id in job_ids] == ["completed"] * 10
            assert "can work again" not in hung.log
            assert text_of(fleet.ended(blocker)) == "one two three"
            hung.wait_for_log("can work again")
        assert fleet.ended(fleet.send(prompt("after it")))[-1]["type"] == "completed"
        assert hung.stop() == 0
    assert messages(broker) == 0


def test_stopped_worker_requeues_its_jobs_at_once(fleet, broker):
    with fleet.worker("-c", "4", WORKER_DRAIN_TIMEOUT_S="0.1") as first:
        running = [fleet.send(prompt(f"[[stall:2*1]] job {n} a b c d")) for n in range(4)]
        for job_id in running:
            fleet.running(job_id)
        job_ids = [*running, fleet.send(prompt("waits a b c d"))]
        assert first.stop() == 0
    with fleet.worker() as second:
        for job_id in job_ids:
            events = fleet.ended(job_id)
            assert [e["seq"] for e in events] == list(range(1, len(events) + 1))
            assert events[-1]["type"] == "completed"
            assert text_of(events).endswith(" a b c d")
        assert second.stop() == 0  # what is acknowledged has reached the broker
    assert messages(broker) == 0


def test_short_jobs_end_before_a_stopped_worker_does(fleet):
    with fleet.worker() as worker:
        job_id = fleet.send(prompt("[[delay:0.2]] a b c d"))
        fleet.running(job_id)
        assert worker.stop() == 0
    events = fleet.events(job_id)
    assert (events[-1]["type"], events[-1]["attempt"]) == ("completed", 1)


async def test_submitted_job_runs_and_unsupported_options_are_refused(fleet, rabbit):
    url = fleet.env["REDIS_URL"]
    async with AsyncClient(url, rabbit.url, settings=Settings()) as client:
        with fleet.worker():
            job_id = await client.submit("hello")
            assert (await client.result(job_id)).text == "echo of hello"
    nobody = f"amqp://guest:guest@127.0.0.1:{free_port()}//"
    async with AsyncClient(url, nobody, settings=Settings()) as client:
        with pytest.raises(Unavailable, match="not accepted") as caught:
            await client.submit("hello")
    assert "guest" not in str(caught.value)


@pytest.mark.parametrize(
    ("password", "host", "reason"),
    [("wrong", "%2F", "ACCESS_REFUSED"), ("guest", "unknown", "NOT_ALLOWED")],
)
async def test_refused_login_or_host_is_one_line_and_no_empty_queue(
    real_redis_url, rabbit, password, host, reason
):
    url = f"amqp://guest:{password}@127.0.0.1:{rabbit.port}/{host}"
    settings = Settings(redis_url=real_redis_url, broker_url=url)
    message = broker_problem(settings)
    assert "answers, but refuses" in message
    assert reason in message
    assert "wrong" not in message
    async with AsyncClient(settings=settings) as client:
        with pytest.raises(Unavailable, match=f"refuses the connection .*{reason}"):
            await client.submit("x")
    with Celery(broker=url) as app:
        with pytest.raises(AMQPError, match=reason):
            queue_depth.count(app)
        with pytest.raises(ConnectionError, match=reason), closing(CeleryJobQueue(app)) as queue:
            await queue.depth()


def test_job_with_a_lost_message_is_requeued(fleet, broker, rabbit):
    job_id = str(uuid.uuid4())
    job = json.dumps(prompt("lost"))
    state = {"status": "queued", "job": job, "created_ms": 1}
    fleet.redis.hset(f"job:{{{job_id}}}:state", mapping=state)
    fleet.redis.expire(f"job:{{{job_id}}}:state", 600)
    fleet.redis.zadd(names.due_key(job_id), {job_id: 1})
    fleet.redis.expire(names.due_key(job_id), 600)
    with fleet.worker(**QUICK_LEASES):
        assert text_of(fleet.ended(job_id)) == "echo of lost"


async def test_quorum_queue_works_if_all_declare_it(fleet, broker, rabbit):
    fleet.env["WORKER_QUEUE_TYPE"] = "quorum"
    fleet.app.conf.task_create_missing_queue_type = "quorum"
    settings = Settings(queue_type="quorum")
    stalls = "[[stall:2*1]] job {} a b c d"
    async with AsyncClient(fleet.env["REDIS_URL"], rabbit.url, settings=settings) as client:
        with fleet.worker("-c", "2", **QUICK_LEASES) as first:
            dead = [fleet.send(prompt(stalls.format(1))), await client.submit(stalls.format(2))]
            for job_id in dead:
                fleet.running(job_id)
            waits = [await client.submit("waits a b c d"), fleet.send(prompt("waits a b c d"))]
            declare = broker.default_channel.queue_declare
            wait_until(
                lambda: declare("prompts", passive=True).message_count == 2, "two are left there"
            )
            assert fleet.upstream.open_streams == 2
            first.kill()
        with fleet.worker("-c", "2", WORKER_DRAIN_TIMEOUT_S="0.1", **QUICK_LEASES) as second:
            for job_id in dead:
                wait_until(lambda j=job_id: fleet.attempt(j) == 2, "restarted")
                fleet.ended(job_id)
            handed_on = fleet.send(prompt(stalls.format(3)))
            fleet.running(handed_on)
            assert second.stop() == 0
        with fleet.worker("-c", "9", **QUICK_LEASES) as third:
            for job_id in (*dead, *waits, handed_on):
                events = fleet.ended(job_id)
                assert events[-1]["type"] == "completed"
                assert text_of(events).endswith(" a b c d")
            assert third.stop() == 0
    assert messages(broker) == 0
    arguments = {"x-queue-type": "quorum"}
    broker.channel().queue_declare("prompts", durable=True, auto_delete=False, arguments=arguments)
