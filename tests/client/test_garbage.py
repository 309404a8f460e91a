"""Readers of garbage in records and indexes: each gets an answer or a ``ClientError``."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from berlin_schemas import names
from berlin_worker.client import Options
from berlin_worker.errors import ClientError
from berlin_worker.storage import stored_values

pytestmark = pytest.mark.contract

JOB = "job-x"
STATE = names.state_key(JOB)
VALUES = [b"\xff", b"", b"x", b"-1", b"1.5", b"1e400", b"nan", b"0x10", b" 7 ", b"1_0", b"\xd9\xa3"]
VALUES += [b"9" * 400, b"9" * 5000, b"[" * 100_000, b'{"a": NaN}', b'{"a": 1e400}', b"[]"]
FIELDS = ["status", "attempt", "seq", "created_ms", "started_ms", "tenant", "metadata"]
QUICK = Options(wait_for_start_s=0.1, give_up_after_s=1, reread_after_s=0.1, submit_timeout_s=2)


@pytest.fixture
def client_options():
    return QUICK


@pytest.mark.parametrize("field", FIELDS)
async def test_field_that_is_garbage_ends_a_reader_with_an_answer_or_an_error(
    client, redis_client, field
):
    for value in VALUES:
        await redis_client.hset(STATE, mapping={"status": "failed", "seq": 1, field: value})
        await redis_client.zadd(names.JOBS, {JOB: 5})
        if field != "status":
            assert (await client.status(JOB)).status == "failed", value
            assert [job.job_id for job in await client.list()] == [JOB], value
            # By its record the job is over, and no log exists.
            with pytest.raises(ClientError):
                await client.result(JOB, timeout_s=5)
        else:
            assert (await client.status(JOB)).status == "unknown", value
            with pytest.raises((ClientError, TimeoutError)):
                await client.result(JOB, timeout_s=0.2)
        await redis_client.delete(STATE)


@pytest.mark.parametrize("score", ["inf", "-inf", "-1", "1e300", "1e13"])
async def test_index_entry_without_a_time_is_left_out_and_hides_no_other(
    client, redis_client, score
):
    for job_id in (JOB, "fine"):
        await redis_client.hset(names.state_key(job_id), mapping={"status": "queued"})
    await redis_client.zadd(names.JOBS, {JOB: float(score), "fine": 5})
    [job] = await client.list()
    assert job.job_id == "fine"
    assert await client.list(before=job) == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary() | st.integers().map(lambda n: str(n).encode()))
def test_whole_number_of_a_record_is_in_range_or_missing(value):
    found = stored_values.whole(value)
    assert found is None or (0 <= found < 10**13 and found == int(value))
