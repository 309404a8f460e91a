"""Slots that move: ASK, TRYAGAIN and MOVED on each path of a job."""

import asyncio
import itertools
from collections.abc import AsyncIterator

import pytest
from redis.crc import key_slot

from berlin_schemas import names
from berlin_worker.client import AsyncClient
from berlin_worker.embedded.topology import Cluster
from berlin_worker.storage.connections import connect
from berlin_worker.storage.job_store import RedisStore
from tests.support.cluster import half_moved, slots_of_first

pytestmark = pytest.mark.contract


def slot_of(job_id: str) -> int:
    return int(key_slot(names.state_key(job_id).encode()))


def job_of_first(cluster: Cluster) -> str:
    """A job ID in a slot of the first primary."""
    slots = slots_of_first(cluster)
    return next(
        job_id for n in itertools.count() if slot_of(job_id := f"{names.new_job_id()}-{n}") in slots
    )


@pytest.fixture
async def store(cluster: Cluster) -> AsyncIterator[RedisStore]:
    async with connect(cluster.url) as client:
        made = RedisStore(
            client,
            owner="owner",
            lease_s=6,
            log_ttl_s=60,
            queue_ttl_s=60,
            dead_letters_max=10,
            one_slot=True,
        )
        yield made
        await made.aclose()


async def test_job_in_a_moving_slot_is_submitted_claimed_renewed_reaped_and_cancelled(
    cluster: Cluster, store: RedisStore, real_redis_url: str
) -> None:
    job_id = job_of_first(cluster)
    async with AsyncClient(cluster.url, real_redis_url) as client:
        with half_moved(cluster, slot_of(job_id)):
            await client.submit("text", job_id=job_id)
            # Over several connections at once: ASKING and its command need the same one.
            found = await asyncio.gather(*(client.status(job_id) for _ in range(20)))
            assert {status.status for status in found} == {"queued"}
            await client.cancel(job_id)
            assert await store.reap(job_id, again_running_s=1, again_queued_s=1) is None
            await store.keep_cancel_flag(job_id)
            assert await store.renew([(job_id, 1)]) == ["lost"]
            # Two keys, of which none is at the former node, and one at the new one: TRYAGAIN.
            waiting = asyncio.create_task(store.claim(job_id, b"", call="call", deadline_s=60))
            done, _ = await asyncio.wait([waiting], timeout=0.1)
            assert not done
        claim = await waiting
        assert (claim.status, claim.cancel_reason) == ("claimed", "requested")
        assert await store.renew([(job_id, 1)]) == ["requested"]  # another connection: MOVED
        assert (await client.status(job_id)).status == "running"
        await store.release(job_id, 1)


async def test_script_on_keys_of_which_one_has_moved_runs_after_the_others(
    cluster: Cluster, store: RedisStore
) -> None:
    job_id = job_of_first(cluster)
    await store.claim(job_id, b"{}", call="call", deadline_s=60)  # it has no log yet: TRYAGAIN
    with half_moved(cluster, slot_of(job_id)):
        waiting = asyncio.create_task(store.claim(job_id, b"{}", call="other", deadline_s=60))
        done, _ = await asyncio.wait([waiting], timeout=0.1)
        assert not done
    assert (await waiting).status == "leased"
