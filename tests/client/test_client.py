"""Results, status and cancelling through the asynchronous client, and errors of its arguments."""

import json

import pytest

from berlin_schemas import names
from berlin_worker.client import AsyncClient, JobFailed, JobStatus, Options, Unavailable
from berlin_worker.embedded.redis_server import free_port
from berlin_worker.errors import SettingsError
from berlin_worker.settings import Settings
from tests.support.client_helpers import JOB, next_message, wait_for_readers

pytestmark = pytest.mark.contract


async def test_result_is_the_text_after_the_last_reset(client, writer):
    await writer.started()
    await writer.chunk("wrong")
    await writer.reset()
    await writer.chunk("right, ")
    await writer.chunk("right")
    await writer.completed(usage={"total_tokens": 3})
    result = await client.result(JOB)
    assert result.text == "right, right"
    assert (result.finish_reason, result.usage) == ("stop", {"total_tokens": 3})
    assert result.timings.total_ms == 6


@pytest.mark.parametrize("end", ["failed", "cancelled"])
async def test_result_of_a_failed_or_cancelled_job_raises_its_terminal_event(client, writer, end):
    await writer.started()
    await getattr(writer, end)()
    with pytest.raises(JobFailed) as caught:
        await client.result(JOB)
    assert caught.value.event.type == end


async def test_wait_for_a_result_has_a_timeout(client, writer):
    await writer.queued()
    with pytest.raises(TimeoutError):
        await client.result(JOB, timeout_s=0.1)
    await wait_for_readers(writer.client, 0)


async def test_status_returns_the_fields_of_the_record(client, writer):
    assert await client.status(JOB) == JobStatus(JOB, "unknown")
    await writer.queued()
    assert await client.status(JOB) == JobStatus(JOB, "queued", created_ts=1.0)
    await writer.started()
    await client.cancel(JOB)
    running = JobStatus(JOB, "running", attempt=1, seq=1, cancel_requested=True, created_ts=1.0)
    assert await client.status(JOB) == running


async def test_cancelling_sets_the_flag_and_publishes_to_the_workers(client, redis_client):
    async with redis_client.pubsub() as control:
        await control.subscribe(names.CONTROL_CHANNEL)
        await next_message(control)
        await client.cancel(JOB, reason="changed my mind")
        message = await next_message(control)
    assert json.loads(message["data"]) == {"cancel": JOB, "reason": "changed my mind"}
    assert await redis_client.hget(names.state_key(JOB), "cancel") == b"1"
    assert await redis_client.ttl(names.state_key(JOB)) > 0


async def test_cancelling_keeps_the_ttl_of_a_record(client, writer):
    await writer.queued()
    await writer.client.expire(names.state_key(JOB), 50)
    await client.cancel(JOB)
    assert 0 < await writer.client.ttl(names.state_key(JOB)) <= 50


@pytest.mark.parametrize("call", ["stream", "cancel", "status", "result"])
async def test_invalid_job_id_reaches_no_key(client, call):
    with pytest.raises(ValueError, match="job ID"):
        await getattr(client, call)("a:b*")


async def test_unreachable_server_is_an_error_without_the_password():
    options = Options(give_up_after_s=0.3, submit_timeout_s=0.3)
    url = f"redis://user:hunter2@127.0.0.1:{free_port()}/0"
    async with AsyncClient(url, settings=Settings(), options=options) as client:
        for call in (client.status, client.cancel, client.result):
            with pytest.raises(Unavailable) as caught:
                await call(JOB)
            assert "127.0.0.1" in str(caught.value)
            assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("wrong", ["redis://h:99999", "redis://h?nonsense=4", "http://h"])
async def test_invalid_url_is_an_immediate_error(wrong):
    with pytest.raises(SettingsError, match=r"^redis_url: "):
        AsyncClient(wrong, settings=Settings())
