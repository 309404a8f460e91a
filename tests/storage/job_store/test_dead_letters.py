"""Dead letters: their number, and one letter for one message."""

import pytest

from berlin_schemas import names
from tests.support.job_store_calls import ID
from tests.support.store_helpers import JOB, make_store

pytestmark = pytest.mark.contract


async def test_dead_letters_are_bounded_in_number_and_need_no_ttl(store, redis_client):
    for n in range(300):
        await store.dead_letter(f"job-{n}", "too_many_attempts", call=f"call-{n}", job=JOB)
    await store.dead_letter(None, "invalid_job_id", call="last", job=b"")
    entries = await redis_client.xrange(names.DEAD_LETTERS)
    assert len(entries) < 250
    assert entries[-1][1][b"reason"] == b"invalid_job_id"
    assert entries[-1][1][b"job_id"] == b""
    assert entries[-2][1][b"job"] == JOB


async def test_dead_letter_whose_reply_was_lost_is_added_once(store, lossy, redis_client):
    elsewhere = make_store(lossy, owner="elsewhere")
    lossy.lose = 1
    with pytest.raises(ConnectionError):
        await elsewhere.dead_letter(ID, "reason", call="x", job=JOB)
    for each in (elsewhere, store):  # the sender again, and the worker that took over
        await each.dead_letter(ID, "reason", call="x", job=JOB)
    assert await redis_client.xlen(names.DEAD_LETTERS) == 1
    await store.dead_letter(ID, "reason", call="y", job=JOB)
    assert await redis_client.xlen(names.DEAD_LETTERS) == 2
