"""A model that is refused with 429 cools down for all workers."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berlin_schemas import ErrorCode, names
from berlin_worker.errors import JobError
from berlin_worker.jobs.cooldown import choose, cooldown_s
from berlin_worker.storage import cooldowns as module
from berlin_worker.storage.cooldowns import RedisCooldowns
from tests.support.harness import ScriptedProvider, Worker, says
from tests.support.store_helpers import check_keys
from tests.support.waiting import until

pytestmark = pytest.mark.contract

KEY = names.limit_key("first", "m-1")
MINE = {"provider": "first", "model": "m-1"}
FALLBACK = {"fallbacks": [{"provider": "second", "model": "m-2"}]}


def refused(retry_after_s):
    return JobError(
        ErrorCode.RATE_LIMITED,
        "slow down",
        retryable=True,
        upstream_status=429,
        retry_after_s=retry_after_s,
    )


@pytest.fixture(autouse=True)
async def keys(redis_client, monkeypatch):
    monkeypatch.setattr(module, "_PATIENCE_S", 60)  # the machine may stop for a second
    yield
    await redis_client.delete(*[key async for key in redis_client.scan_iter("limit:*")] or ["none"])
    await check_keys(redis_client)


def worker(redis_client, first, second=None, **changes):
    seen = []

    async def stream(job, report):
        seen.append(job.provider)
        script = second if job.provider == "second" else first
        async for deltas in script(job, report):
            yield deltas

    here = Worker(redis_client, ScriptedProvider(stream), **changes)
    here.seen = seen
    return here


async def test_job_with_a_fallback_goes_there_without_a_call(redis_client):
    async with worker(redis_client, says(then=refused(1000.0)), says("b")) as here:
        await here.run("job-1", **MINE, **FALLBACK)
        assert 0 < await redis_client.pttl(KEY) <= 1_000_000
        async with worker(redis_client, says("never"), says("b"), owner="other") as other:
            await other.run("job-2", **MINE, **FALLBACK)
            events = await other.log("job-2")
    assert (here.seen, other.seen) == (["first", "second"], ["second"])
    assert [each.type for each in events] == ["started", "chunk", "completed"]
    assert (events[0].provider, events[-1].provider) == ("second", "second")


async def test_job_without_a_fallback_waits_without_a_call(redis_client):
    cools_down = []

    async def stream(job, report):
        cools_down.append(await redis_client.exists(KEY))
        yield ["a"]

    async with worker(redis_client, stream) as here:
        await redis_client.set(KEY, 1, px=300)
        await here.run("job-1", **MINE)
        assert (await here.kinds("job-1"))[-1] == "completed"
    assert cools_down == [0]


async def test_job_that_waits_can_be_cancelled(redis_client):
    await redis_client.set(KEY, 1, px=500_000)
    async with worker(redis_client, says("never")) as here:
        running = here.start("job-1", **MINE)
        await until(lambda: here.leases.holder("job-1") is not None)
        await here.runner.cancel("job-1", "requested")
        await running
        assert await here.kinds("job-1") == ["cancelled"]
    assert here.seen == []


async def test_job_whose_deadline_comes_first_fails_at_once(redis_client):
    await redis_client.set(KEY, 1, px=900_000)
    async with worker(redis_client, says("never")) as here:
        await here.run("job-1", **MINE, deadline_s=600.0)
        [event] = await here.log("job-1")
    assert event.error.code is ErrorCode.RATE_LIMITED
    assert event.error.retryable
    assert here.seen == []


async def test_if_all_candidates_cool_down_the_first_to_be_free_is_called(redis_client):
    await redis_client.set(KEY, 1, px=500_000)
    await redis_client.set(names.limit_key("second", "m-2"), 1, px=200)
    async with worker(redis_client, says("never"), says("b")) as here:
        await here.run("job-1", **MINE, **FALLBACK)
    assert here.seen == ["second"]


async def test_cooldown_is_never_shortened_and_other_models_go_on(redis_client):
    cooldowns, others = RedisCooldowns(redis_client), RedisCooldowns(redis_client)
    await cooldowns.begin("p", "m", 1000.0)
    await others.begin("p", "m", 10.0)
    assert await redis_client.pttl(names.limit_key("p", "m")) > 900_000
    assert await RedisCooldowns(redis_client).remaining_s("p", "m") > 900
    assert await cooldowns.remaining_s("p", "other") == 0
    assert await cooldowns.remaining_s("q", "m") == 0


@pytest.mark.parametrize("ttl_s", [None, 10 * 86400], ids=["none", "ten days"])
async def test_key_that_no_worker_has_written_is_no_cooldown_and_is_replaced(redis_client, ttl_s):
    key = names.limit_key("p", "m")
    await redis_client.set(key, "mine", ex=ttl_s)
    assert await RedisCooldowns(redis_client).remaining_s("p", "m") == 0
    await RedisCooldowns(redis_client).begin("p", "m", 1000.0)
    assert 900 < await RedisCooldowns(redis_client).remaining_s("p", "m") <= 1000


async def test_cooldown_of_the_fleet_ends_with_its_key(redis_client, monkeypatch):
    cooldowns, key = RedisCooldowns(redis_client), names.limit_key("p", "m")
    await RedisCooldowns(redis_client).begin("p", "m", 1000.0)
    assert await cooldowns.remaining_s("p", "m") > 900
    monkeypatch.setattr("berlin_worker.storage.cooldowns.FRESH_S", 0.0)
    await redis_client.delete(key)
    assert await cooldowns.remaining_s("p", "m") == 0


async def test_many_jobs_ask_redis_once(redis_client, monkeypatch):
    cooldowns, asked = RedisCooldowns(redis_client), []
    pttl = redis_client.pttl

    async def counted(key):
        asked.append(key)
        return await pttl(key)

    monkeypatch.setattr(redis_client, "pttl", counted)
    waits = await asyncio.gather(*(cooldowns.remaining_s("p", "m") for _ in range(100)))
    assert set(waits) == {0.0}
    assert len(asked) == 1


async def test_without_redis_no_model_cools_down(redis_client, monkeypatch):
    cooldowns = RedisCooldowns(redis_client)

    async def fails(key):
        raise ConnectionError("away")

    monkeypatch.setattr(redis_client, "pttl", fails)
    assert await cooldowns.remaining_s("p", "m") == 0


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (refused(7.0), 7.0),
        (refused(None), 0.0),
        (refused(-1.0), 0.0),
        (refused(1e9), 3600.0),
        (JobError(ErrorCode.QUOTA_EXCEEDED, "x", upstream_status=429, retry_after_s=5), 0.0),
        (JobError(ErrorCode.UPSTREAM_ERROR, "x", upstream_status=503, retry_after_s=5), 0.0),
    ],
)
def test_only_a_429_with_a_time_is_a_cooldown(error, expected):
    assert cooldown_s(error) == expected


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=5))
def test_first_free_candidate_is_chosen_else_the_first_to_be(waits_s):
    place = choose(waits_s)
    assert waits_s[place] == min(waits_s)
    assert place == waits_s.index(min(waits_s))


@given(st.text(max_size=200), st.text(max_size=200))
def test_limit_key_has_one_slot_whatever_the_names(provider, model):
    key = names.limit_key(provider, model)
    assert key.startswith("limit:{")
    assert key.count("{") == key.count("}") == 1
    assert key.endswith("}")
    assert key.isascii()
    assert len(key) < 150
