"""A job ID that comes again with another payload: an error for its sender, nothing for the job."""

import asyncio
import json
from typing import Any

import pytest
import redis.asyncio

from berlin_schemas import names
from berlin_worker.client import AsyncClient, Client, JobIdReused
from berlin_worker.settings import Settings
from tests.support.client_helpers import QUICK
from tests.support.harness import ScriptedProvider, Worker, cancelled, says
from tests.support.prompt_jobs import nested
from tests.support.store_helpers import record

pytestmark = pytest.mark.contract

HELLO = [{"role": "user", "content": "Hello"}]
OTHER = [{"role": "user", "content": "Other"}]


async def letters(client: redis.asyncio.Redis) -> list[dict[str, Any]]:
    entries = await client.xrange(names.DEAD_LETTERS)
    return [{k.decode(): v.decode() for k, v in fields.items()} for _, fields in entries]


async def bring_into(state: str, client: AsyncClient, worker: Worker) -> asyncio.Task[Any] | None:
    """Bring the job ``mine`` into a state; return its task if it runs."""
    if state == "waits":
        await client.submit("Hello", job_id="mine")
    elif state == "runs":
        running = worker.start("mine")
        await worker.logged(2, "mine")
        return running
    elif state == "is over":
        await worker.run("mine")
    else:
        await worker.run("mine", proxy="http://not-allowed.test:1")
    return None


async def kept_record(client):
    """Return the record of the job without its lease, which each renewal changes."""
    found = await record(client, "mine")
    found.pop("lease_ms", None)
    return found


@pytest.mark.parametrize("state", ["waits", "runs", "is over", "was refused"])
async def test_submit_raises_for_another_payload_and_attaches_for_the_same(
    client, redis_client, state
):
    provider = ScriptedProvider(says("one", hangs=state == "runs"))
    async with Worker(redis_client, provider) as worker:
        running = await bring_into(state, client, worker)
        before = await kept_record(redis_client)
        with pytest.raises(JobIdReused, match="job ID mine belongs to a job with another payload"):
            await client.submit("Other", job_id="mine")
        with pytest.raises(JobIdReused):
            await anext(client.submit_and_stream("Hello", job_id="mine", model="m-2"))
        assert await kept_record(redis_client) == before
        proxy = {"proxy": "http://not-allowed.test:1"} if state == "was refused" else {}
        spelt_out = {"messages": HELLO, "options": {}, "deadline_s": 600, **proxy}
        assert await client.submit(spelt_out, job_id="mine") == "mine"
        if running is not None:
            async with cancelled(running):
                pass


@pytest.mark.parametrize("state", ["waits", "runs", "is over"])
async def test_bare_message_with_a_used_id_goes_to_the_dead_letters_and_the_job_goes_on(
    client, redis_client, state
):
    provider = ScriptedProvider(says("one", hangs=state == "runs"))
    async with Worker(redis_client, provider) as worker:
        running = await bring_into(state, client, worker)
        before, log = await kept_record(redis_client), await worker.log("mine")
        for _ in range(2):  # delivered again, it is one entry of the dead letters
            await worker.run("mine", messages=OTHER)
            await worker.run("mine", messages=OTHER, redelivered=True)
        await worker.run("mine", messages=OTHER, proxy="http://not-allowed.test:1")
        await worker.run("mine", messages=[])
        for depth in (150, 700):  # the second one is too deep for a fingerprint
            await worker.run("mine", messages=[{**OTHER[0], "z": nested(depth)}])
        await worker.runner.discard("mine", "undecodable", "no JSON", b"garbage")
        assert await kept_record(redis_client) == before
        assert await worker.log("mine") == log
        found = await letters(redis_client)
        assert [each["reason"] for each in found] == ["job_id_reused"] * 5 + ["undecodable"]
        assert {each["job_id"] for each in found} == {"mine"}
        assert json.loads(found[0]["job"])["messages"] == OTHER
        if running is not None:
            async with cancelled(running):
                pass
        elif state == "waits":
            await worker.run("mine")
            assert (await worker.kinds("mine"))[-1] == "completed"
    assert provider.calls == 1


async def test_first_of_two_bare_messages_runs(redis_client):
    provider = ScriptedProvider(says("one"))
    async with Worker(redis_client, provider) as worker:
        await worker.run("mine", messages=OTHER)
        await worker.run("mine")
    assert provider.calls == 1
    assert [each["reason"] for each in await letters(redis_client)] == ["job_id_reused"]


async def test_record_of_an_older_version_is_not_compared(client, redis_client):
    await redis_client.hset(names.state_key("mine"), mapping={"status": "queued", "job": "{}"})
    async with Worker(redis_client, ScriptedProvider(says("one"))) as worker:
        assert await client.submit("Hello", job_id="mine") == "mine"
        await worker.run("mine")
        assert (await worker.kinds("mine"))[-1] == "completed"
    with pytest.raises(JobIdReused):
        await client.submit("Other", job_id="mine")


async def test_job_that_was_withdrawn_or_only_cancelled_leaves_its_id_free(client, redis_client):
    await client.cancel("mine")
    await client.submit("Hello", job_id="mine")
    assert (await kept_record(redis_client))["status"] == "queued"


async def test_job_that_celery_has_revoked_before_it_is_submitted_never_runs(client, redis_client):
    provider = ScriptedProvider(says("one"))
    async with Worker(redis_client, provider) as worker:
        await worker.store.revoke("mine", running=False)
        await client.submit("Hello", job_id="mine")
        assert (await client.status("mine")).cancel_requested
        await worker.run("mine")
        assert await worker.kinds("mine") == ["cancelled"]


def test_sync_client_raises_for_another_payload(redis_url):
    with Client(redis_url, settings=Settings(), options=QUICK) as client:
        client.submit("Hello", job_id="mine")
        client.submit("Hello", job_id="mine", deadline_s=600)
        with pytest.raises(JobIdReused) as raised:
            client.submit("Other", job_id="mine")
    assert raised.value.job_id == "mine"
