"""The synchronous client: reading and submitting from any thread."""

import asyncio
import json
import multiprocessing
import threading
from collections.abc import Awaitable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
import redis.asyncio

from berlin_schemas import InvalidJob, names
from berlin_worker.client import Client, ClientError, CursorExpired, JobFailed, sync
from berlin_worker.settings import Settings
from tests.support.client_helpers import QUICK
from tests.support.job_writer import JobWriter

pytestmark = pytest.mark.contract

JOB = "job-1"


@pytest.fixture
def client(redis_url) -> Iterator[Client]:
    with Client(redis_url, settings=Settings(), options=QUICK) as client:
        yield client


@pytest.fixture
def inspector(redis_url) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as inspector:
        yield inspector


def write(url: str, job_id: str, *contents: str) -> None:
    """Write a whole job from a thread that has no event loop."""

    async def work() -> None:
        async with redis.asyncio.Redis.from_url(url) as server:
            await JobWriter(server, job_id).whole(*contents)

    run(work())


def run(work: Awaitable[None]) -> None:
    with asyncio.Runner() as runner:
        runner.run(work)


def test_finished_job_is_replayed(client, redis_url):
    write(redis_url, JOB, "a", "b")
    assert [event.seq for event in client.stream(JOB)] == [1, 2, 3, 4]
    assert [event.seq for event in client.stream(JOB, after=3)] == [4]
    assert client.result(JOB).text == "ab"
    assert client.status(JOB).status == "completed"


def test_submit_and_stream_gives_the_events_of_the_job(client, redis_url, inspector):
    with client.submit_and_stream("Hello") as stream:
        assert inspector.llen(names.QUEUE) == 1
        write(redis_url, stream.job_id, "a")
        assert [event.type for event in stream] == ["started", "chunk", "completed"]


def test_threads_share_a_client(client, redis_url, inspector):
    with ThreadPoolExecutor(8) as threads:
        ids = list(threads.map(client.submit, [f"{n}" for n in range(24)]))
        reading = [threads.submit(client.result, job_id) for job_id in ids[:4]]
        for job_id in ids[:4]:
            write(redis_url, job_id, job_id, "!")
        assert [result.result(30).text for result in reading] == [f"{j}!" for j in ids[:4]]
    assert inspector.llen(names.QUEUE) == 24


def test_errors_are_those_of_the_asynchronous_client(client, redis_url):
    with pytest.raises(InvalidJob):
        client.submit([])
    with pytest.raises(CursorExpired):
        list(client.stream("never-existed"))
    with pytest.raises(TimeoutError):
        client.result("never-existed", timeout_s=0.05)

    async def fail() -> None:
        async with redis.asyncio.Redis.from_url(redis_url) as server:
            await JobWriter(server, JOB).failed()

    run(fail())
    with pytest.raises(JobFailed, match="auth_failed"):
        client.result(JOB)


def test_breaking_out_unsubscribes(client, redis_url, inspector):
    write(redis_url, JOB, "a")
    for _ in client.stream(JOB):
        break
    wait_for_subscribers(inspector, JOB, 0)


def test_cancelling_marks_the_job(client, inspector):
    client.cancel(JOB)
    assert inspector.hget(names.state_key(JOB), "cancel") == b"1"


def test_closing_ends_readers_in_other_threads_with_an_error(redis_url, inspector):
    before = set(threading.enumerate())  # another test's client may wait for its collection
    client = Client(redis_url, settings=Settings())
    inspector.hset(names.state_key(JOB), "status", "queued")
    with ThreadPoolExecutor(1) as threads:
        reading = threads.submit(list, client.stream(JOB))
        wait_for_subscribers(inspector, JOB, 1)
        client.close()
        with pytest.raises(ClientError, match="closed"):
            reading.result(30)
    left = set(threading.enumerate()) - before
    assert not [thread for thread in left if thread.name.startswith("berlin-client")]


def test_closing_a_stream_ends_its_reader_in_another_thread(client, inspector):
    inspector.hset(names.state_key(JOB), "status", "queued")
    stream = client.stream(JOB)
    with ThreadPoolExecutor(1) as threads:
        reading = threads.submit(list, stream)
        wait_for_subscribers(inspector, JOB, 1)
        stream.close()
        assert reading.result(30) == []


def test_interrupt_loses_no_event_that_has_arrived(client, redis_url, monkeypatch):
    write(redis_url, JOB, "a", "b")
    stream = client.stream(JOB)

    def interrupted(portal, work, run=sync._Portal.run):
        run(portal, work)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sync._Portal, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            next(stream)
    assert [event.seq for event in stream] == [1, 2, 3, 4]


def test_stream_of_a_closed_client_is_an_error_not_a_hang(redis_url):
    client = Client(redis_url, settings=Settings())
    stream = client.stream(JOB)
    client.close()
    with pytest.raises(ClientError, match="closed"):
        next(stream)


def test_client_may_be_closed_twice_and_without_use(redis_url):
    client = Client(redis_url, settings=Settings())
    client.close()
    client.close()


# A process with threads warns when it forks; that is what this test is about.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_client_made_before_a_fork_works_in_parent_and_child(real_redis_url):
    client = Client(real_redis_url, settings=Settings())
    client.submit("parent")
    child = multiprocessing.get_context("fork").Process(target=client.submit, args=("child",))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    client.submit("parent again")
    client.close()
    with redis.Redis.from_url(real_redis_url) as inspector:
        assert inspector.llen(names.QUEUE) == 3


def wait_for_subscribers(inspector: redis.Redis, job_id: str, wanted: int) -> None:
    pause = threading.Event()
    for _ in range(3000):
        if inspector.pubsub_numsub(names.channel(job_id))[0][1] == wanted:
            return
        pause.wait(0.01)
    pytest.fail(f"never came to {wanted} subscribers")


def test_types_codes_and_reasons_of_later_versions_end_no_reader(client, redis_url):
    async def work() -> None:
        async with redis.asyncio.Redis.from_url(redis_url) as server:
            head = {"v": 1, "attempt": 1, "ts": 1.0}
            timings = dict.fromkeys(
                ("queue_ms", "login_ms", "first_chunk_ms", "stream_ms", "total_ms"), 0
            )
            error = {"code": "code_of_a_later_version", "message": "no more", "retryable": False}
            for job_id, end in (
                (JOB, {"type": "completed", "finish_reason": "budget_spent", "timings": timings}),
                ("job-2", {"type": "failed", "error": error}),
            ):
                writer = JobWriter(server, job_id)
                await writer.started()
                for fields in ({"type": "image", "content": "hm"}, end):
                    event = {**head, "job_id": job_id, "seq": writer.seq + 1, **fields}
                    await writer.append_raw(json.dumps(event).encode(), status=fields["type"])

    run(work())
    assert [event.type for event in client.stream(JOB)] == ["started", "completed"]
    assert client.result(JOB).finish_reason == "stop"
    with pytest.raises(JobFailed, match="internal: no more"):
        client.result("job-2")
    assert client.status("job-2").error.message == "no more"
    assert list(client.stream(JOB, after=3)) == []


def test_child_of_a_fork_begins_anew(monkeypatch):
    monkeypatch.setattr(sync, "_left_behind", [])
    client, parent = Client("redis://127.0.0.1:1/0"), object()
    monkeypatch.setattr(sync, "_clients", [client])
    client._portal = parent
    with client._lock:  # a thread of the parent holds it
        sync._forked()
    assert client._portal is None
    assert sync._left_behind == [parent]
    client.forked()
    assert sync._left_behind == [parent]
