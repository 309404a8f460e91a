"""Renewing and releasing leases over a fake and three real servers."""

import pytest

from berlin_schemas import names
from tests.support.job_store_calls import ID, append, claim, ended
from tests.support.store_helpers import check_keys, due_at, expire_lease, open_log, record

pytestmark = pytest.mark.contract


async def test_renewal_returns_the_state_of_each_job(store, redis_client):
    owners = {"gone": "nobody"}
    for name in ("fine", "flagged", "revoked", "taken", "over", "reaped", "released"):
        owners[name] = (await claim(store, job_id=name)).owner
    await redis_client.hset(names.state_key("flagged"), "cancel", 1)
    assert not await store.revoke("revoked", running=False)
    assert not await store.revoke("revoked", running=True)
    await expire_lease(redis_client, "taken")
    await claim(store, job_id="taken")
    await append(store, ended(open_log(await _reclaimed(store, "over", owners["over"]))))
    await expire_lease(redis_client, "reaped")
    await store.reap("reaped", again_running_s=6, again_queued_s=30)
    await store.release("released", owners["released"])
    for name in ("fine", "flagged", "revoked"):
        await expire_lease(redis_client, name)
    lost = ("taken", "over", "reaped", "released", "gone")
    held = [(name, owners[name]) for name in ("fine", "flagged", "revoked", *lost)]
    assert await store.renew(held) == ["renewed", "requested", "revoked", *["lost"] * 5]
    for name in ("fine", "flagged", "revoked"):
        assert await due_at(redis_client, name) > 1e12
        assert float((await record(redis_client, name))["lease_ms"]) > 1e12
    assert "lease_ms" not in await record(redis_client, "over")
    assert await record(redis_client, "gone") == {}


async def _reclaimed(store, job_id, held):
    return await claim(store, b"", job_id=job_id, held=held)


async def test_lease_that_ran_out_unnoticed_is_renewed(store, redis_client):
    owner = (await claim(store)).owner
    await expire_lease(redis_client, ID)
    assert await store.renew([(ID, owner)]) == ["renewed"]
    assert (await claim(store)).status == "leased"


async def test_evicted_index_is_rebuilt_with_a_ttl(store, redis_client):
    owner = (await claim(store)).owner
    await redis_client.delete(names.due_key(ID))
    assert await store.renew([(ID, owner)]) == ["renewed"]
    await check_keys(redis_client)
    await redis_client.delete(names.due_key(ID))
    await store.release(ID, owner)
    await store.update_index()
    await check_keys(redis_client)
    assert await due_at(redis_client, ID) is not None


async def test_renewing_nothing_is_no_error(store):
    assert await store.renew([]) == []


async def test_release_by_an_older_attempt_changes_nothing(store, redis_client):
    owner = (await claim(store)).owner
    await claim(store, b"", held=owner)
    await store.release(ID, owner)
    assert (await record(redis_client, ID))["status"] == "running"


async def test_release_after_the_end_changes_nothing(store, redis_client):
    log = ended(open_log(await claim(store)))
    await append(store, log)
    await store.release(ID, log.owner)
    assert (await record(redis_client, ID))["status"] == "completed"
    await store.update_index()
    assert await due_at(redis_client, ID) is None
