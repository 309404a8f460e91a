"""Jobs that a worker refuses, and providers that break their contract."""

import logging

import pytest

from berlin_schemas import ErrorCode, names
from berlin_worker.errors import JobError
from tests.support.harness import JOB_ID, says
from tests.support.store_helpers import job_object, raw_log

pytestmark = pytest.mark.contract

SECRET = "the prompt that nobody else may read"


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ([], {}),
        ([job_object(), job_object()], {}),
        ([job_object()], {"extra": 1}),
        ([], {"job": job_object()}),
        (["text"], {}),
        ([None], {}),
        ([[job_object()]], {}),
        ([{}], {}),
        ([job_object(unknown=1)], {}),
        ([job_object(messages=[])], {}),
        ([job_object(messages="Hello")], {}),
        ([{"messages": [{"role": "robot", "content": "Hello"}]}], {}),
        ([{"messages": [{"role": "user", "content": 1}]}], {}),
        ([job_object(deadline_s="600")], {}),
        ([job_object(deadline_s=-1)], {}),
        ([job_object(idle_timeout_s=float("nan"))], {}),
        ([job_object(on_interrupt="explode")], {}),
        ([job_object(proxy="http://elsewhere.test:1")], {}),
        ([job_object(job_id="another")], {}),
        ([job_object(metadata={"pad": "x" * (1 << 20)})], {}),
        ([job_object(metadata={"half": "\ud800"})], {}),
    ],
)
async def test_invalid_job_fails_once_and_reaches_no_provider(worker, caplog, args, kwargs):
    caplog.set_level(logging.DEBUG)
    async with worker(says("never")) as here:
        await here.runner.run(JOB_ID, args, kwargs)
        await here.runner.run(JOB_ID, args, kwargs)
        [event] = await here.log()
        assert here.provider.calls == 0
    assert event.type == "failed"
    assert event.error.code is ErrorCode.INVALID_JOB
    assert not event.error.retryable
    assert "Hello" not in event.error.message


async def test_job_that_the_provider_refuses_is_invalid(worker):
    async with worker(says("never")) as here:
        here.provider.refuses = JobError(ErrorCode.INVALID_JOB, "options: no such name")
        await here.run()
        [event] = await here.log()
        assert here.provider.calls == 0
    assert (event.error.code, event.error.message) == (
        ErrorCode.INVALID_JOB,
        "options: no such name",
    )


async def test_unknown_provider_is_an_invalid_job(worker):
    def provider_of(name):
        raise JobError(ErrorCode.INVALID_JOB, f"provider: no {name}")

    async with worker(says("never"), provider_of=provider_of) as here:
        await here.run(provider="nobody")
        [event] = await here.log()
    assert event.error.code is ErrorCode.INVALID_JOB


async def test_proxy_on_the_allow_list_is_accepted(worker):
    async with worker(says("a")) as here:
        await here.run(proxy="http://proxy.test:1")
        assert (await here.kinds())[-1] == "completed"


@pytest.mark.parametrize("task_id", ["", "a b", "x" * 129, "job:{x}", "é", None, 7], ids=repr)
async def test_invalid_task_id_becomes_a_dead_letter_and_no_key(worker, redis_client, task_id):
    async with worker(says("never")) as here:
        await here.runner.run(task_id, [job_object()], {})
        others = [key async for key in redis_client.scan_iter() if b"worker:" not in key]
        assert others == []
        [(_, letter)] = await redis_client.xrange(names.DEAD_LETTERS)
        assert letter[b"reason"] == b"invalid_job_id"


@pytest.mark.parametrize("where", ["check", "stream"])
async def test_provider_bug_ends_as_internal_and_reveals_no_prompt(
    worker, redis_client, caplog, where
):
    caplog.set_level(logging.DEBUG)
    bug = TypeError(f"cannot do anything with {SECRET}")
    async with worker(says("a", then=bug)) as here:
        if where == "check":
            here.provider.refuses = bug
        await here.run(messages=[{"role": "user", "content": SECRET}])
        end = (await here.log())[-1]
        assert SECRET.encode() not in b"".join(await raw_log(redis_client, JOB_ID))
        assert here.provider.calls == (where == "stream")
    assert end.error.code is ErrorCode.INTERNAL
    assert not end.error.retryable
    assert "TypeError" in end.error.message
    assert all(SECRET not in _written(each) for each in caplog.records)


def _written(log_record):
    return logging.Formatter().format(log_record)


@pytest.mark.parametrize("report_of", [{"login_s": -1.0}, {"login_s": float("nan")}])
async def test_report_that_no_event_can_hold_ends_as_internal(worker, report_of):
    async def stream(job, report):
        yield ["a"]
        for name, value in report_of.items():
            setattr(report, name, value)

    async with worker(stream) as here:
        await here.run()
        events = await here.log()
    assert [each.type for each in events] == ["started", "chunk", "failed"]
    assert events[-1].error.code is ErrorCode.INTERNAL


@pytest.mark.parametrize("delta", [None, 1, b"bytes"])
async def test_deltas_of_a_wrong_type_end_as_internal(worker, delta):
    async def stream(job, report):
        yield ["fine"]
        yield ["half", delta]

    async with worker(stream) as here:
        await here.run()
        events = await here.log()
    assert [each.type for each in events] == ["started", "chunk", "failed"]


async def test_error_message_with_invalid_characters_is_published_with_replacements(worker):
    error = JobError(ErrorCode.BAD_CHUNK, "line \ud800 is no JSON")
    async with worker(says(then=error)) as here:
        await here.run()
        assert (await here.log())[-1].error.message == "line ? is no JSON"
