"""Listing jobs: newest first, filtered, page by page, whatever else stands in the index."""

import itertools

import pytest

from berlin_schemas import ErrorCode, names
from berlin_worker.client import AsyncClient, Client, Options
from berlin_worker.client.values import JobStatus
from berlin_worker.settings import Settings
from tests.support.harness import ScriptedProvider, Worker, says
from tests.support.job_writer import JobWriter
from tests.support.store_helpers import check_keys

pytestmark = pytest.mark.contract


def ids(jobs: list[JobStatus]) -> list[str]:
    return [job.job_id for job in jobs]


async def test_submitted_jobs_are_listed_newest_first_with_tenant_and_metadata(
    client, redis_client
):
    await client.submit("a", job_id="a", tenant="t-1", metadata={"order": 7})
    await client.submit("b", job_id="b", tenant="t-2")
    await redis_client.zadd(names.JOBS, {"a": 1_000, "b": 2_000})
    await redis_client.hset(names.state_key("a"), "created_ms", 1_000)
    await redis_client.hset(names.state_key("b"), "created_ms", 2_000)
    [newer, older] = await client.list()
    assert (newer.job_id, newer.tenant, newer.metadata) == ("b", "t-2", {})
    assert (older.job_id, older.tenant, older.metadata) == ("a", "t-1", {"order": 7})
    assert older.status == "queued"
    assert ids(await client.list(tenant="t-1")) == ["a"]
    assert ids(await client.list(tenant="nobody")) == []
    assert ids(await client.list(status="queued", limit=1)) == ["b"]
    assert ids(await client.list(before=newer)) == ["a"]
    assert (await client.status("a")).metadata == {"order": 7}
    await redis_client.delete(names.QUEUE, *await redis_client.keys("_kombu*"))
    await check_keys(redis_client)


async def test_bare_job_is_listed_once_a_worker_has_taken_it(client, redis_client):
    async with Worker(redis_client, ScriptedProvider(says("x"))) as worker:
        await worker.run("bare", tenant="t", metadata={"k": "v"})
        await worker.store.update_index()
    [job] = await client.list(tenant="t", status="completed")
    assert (job.job_id, job.metadata) == ("bare", {"k": "v"})
    assert job.created_ts is not None


async def test_failed_and_cancelled_jobs_are_listed_with_the_reason(client, redis_client):
    await JobWriter(redis_client, "bad").failed()
    await JobWriter(redis_client, "off").cancelled()
    await redis_client.zadd(names.JOBS, {"bad": 2, "off": 1})
    bad, off = await client.list()
    assert bad.error is not None
    assert bad.error.code is ErrorCode.AUTH_FAILED
    assert off.reason == "requested"
    assert (await client.status("bad")).error == bad.error
    assert (await client.status("off")).reason == "requested"
    await redis_client.delete(names.log_key("bad"))
    assert (await client.status("bad")).error is None


async def test_garbage_in_index_and_records_hides_no_job(client, redis_client, request):
    await redis_client.zadd(names.JOBS, {"a b": 9, b"\xff": 8, "gone": 7, "wrong": 6, "odd": 5})
    if "fake" not in request.node.name:  # fakeredis hangs up after an error reply
        await redis_client.set(names.state_key("wrong"), "a string")
    odd = {"status": "running", "attempt": "x", "seq": b"\xff", "metadata": "[", "created_ms": "?"}
    await redis_client.hset(names.state_key("odd"), mapping=odd)
    await redis_client.hset(names.state_key("gone"), mapping={"status": "dancing"})
    [job] = await client.list()
    assert (job.job_id, job.status, job.attempt, job.created_ts) == ("odd", "running", 0, 0.005)
    assert (await client.status("odd")).created_ts is None
    assert job.metadata == {}


async def test_keys_of_a_wrong_type_count_as_missing(server, real_redis_url):
    for key in (names.JOBS, names.state_key("a"), names.log_key("b")):
        await server.set(key, "a string")
    await server.hset(names.state_key("b"), "status", "failed")
    async with AsyncClient(real_redis_url, settings=Settings()) as client:
        assert await client.list() == []
        assert (await client.status("a")).status == "unknown"
        assert (await client.status("b")).status == "failed"
        assert await client.attached("a") is None
        assert await client.submitted_later("a") is None


@pytest.mark.parametrize("size", [1, 7, 200, 450])
async def test_pages_cover_all_jobs_of_one_millisecond_once(client, redis_client, size):
    wanted = {f"job-{n:03}": 5_000 + n // 300 for n in range(450)}
    await redis_client.zadd(names.JOBS, wanted)
    async with redis_client.pipeline(transaction=False) as pipe:
        for job_id, created_ms in wanted.items():
            record = {"status": "queued", "created_ms": created_ms}
            pipe.hset(names.state_key(job_id), mapping=record)
        await pipe.execute()
    seen: list[str] = []
    page: list[JobStatus] = []
    pages = 450 if size > 1 else 12
    for _ in range(pages):
        page = await client.list(limit=size, before=page[-1] if page else None)
        if not page:
            break
        seen += ids(page)
    expected = sorted(wanted, key=lambda each: (wanted[each], each), reverse=True)
    assert seen == expected[: len(seen)]
    assert len(seen) == (12 if size == 1 else 450)


async def test_index_is_bounded(client, redis_client):
    old = {f"old-{n}": n for n in range(10_050)}
    for some in itertools.batched(old.items(), 2_000) if hasattr(itertools, "batched") else [old]:
        await redis_client.zadd(names.JOBS, dict(some))
    await client.submit("x", job_id="newest")
    assert await redis_client.zcard(names.JOBS) == 10_000
    assert await redis_client.zrevrange(names.JOBS, 0, 0) == [b"newest"]
    assert await redis_client.ttl(names.JOBS) > 0


async def test_withdrawn_job_is_not_listed(redis_url):
    options = Options(submit_timeout_s=0.5)
    broker = "redis://127.0.0.1:1/0"
    async with AsyncClient(redis_url, broker, settings=Settings(), options=options) as client:
        with pytest.raises(Exception, match="was not accepted"):
            await client.submit("x", job_id="mine")
        assert await client.list() == []


def test_sync_client_lists_too(redis_url):
    with Client(redis_url, settings=Settings()) as client:
        client.submit("x", job_id="mine")
        assert ids(client.list(limit=3)) == ["mine"]
        with pytest.raises(ValueError, match="limit"):
            client.list(limit=0)
