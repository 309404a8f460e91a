"""The worker in a test's own process, the fixtures, and the conformance tests of providers."""

import asyncio
import base64
import json
import os
import threading
from collections.abc import AsyncGenerator

import pytest
import redis
from celery import Celery

from berlin_schemas import ErrorCode, PromptJob, names
from berlin_worker.client import AssembledToolCall, AsyncClient, JobFailed
from berlin_worker.errors import JobError
from berlin_worker.providers.base import Report, Services
from berlin_worker.providers.deltas import ReasoningDelta, ToolCallDelta
from berlin_worker.providers.echo import EchoProvider
from berlin_worker.testing import InProcessWorker, scripted
from berlin_worker.testing.conformance import ProviderConformance
from tests.support.garbage import task

pytestmark = pytest.mark.contract

pytest_plugins = ["berlin_worker.testing.plugin"]


def test_real_clients_and_bare_producers_work_on_the_worker(berlin_worker, berlin_client):
    assert os.environ["REDIS_URL"] == berlin_worker.redis_url
    options = {"temperature": 0}
    job_id = berlin_client.submit("What I said", model="m", options=options, tenant="t")
    assert berlin_client.result(job_id, 30).text == "What I said"
    with Celery(broker=berlin_worker.redis_url, set_as_current=False) as app:
        job = {"messages": [{"role": "user", "content": "bare"}], "provider": "echo"}
        sent = app.send_task("worker.generate", args=[job], queue="prompts", priority=3)
        app.send_task("another.task", queue="prompts")
    assert berlin_client.result(sent.id, 30).text == "bare"
    slow = {"provider": "echo", "options": {"delay_s": 60}}
    running = berlin_client.submit("never", **slow)
    stream = berlin_client.stream(running)
    assert next(stream).type == "started"
    berlin_client.cancel(running, "enough")
    with pytest.raises(JobFailed, match="enough"):
        berlin_client.result(running, 30)
    berlin_client.submit("still running at the end", **slow)
    assert [job.job_id for job in berlin_client.list(tenant="t")] == [job_id]

    async def work() -> str:
        async with AsyncClient() as client:
            return (await client.result(await client.submit("async"), 30)).text

    assert asyncio.run(work()) == "async"


def invalid_messages() -> list[str]:
    """Messages of the queue, each with something else that is wrong."""
    body = {"body": "x"}, {"body": 7}, {"body": None}, {"body": base64.b64encode(b"[").decode()}
    kind = {"content-type": "application/data"}, {"content-type": 7}, {"content-encoding": "rot13"}
    headers = [], "x", {}, {"compression": "rot13"}, {"task": names.TASK, "id": ["x"]}
    headers += {"task": names.TASK, "id": "../x"}, {"task": ["x"], "id": "job-1"}
    wrong = [*body, *kind, *({"headers": each} for each in headers)]
    bodies = [[], {}], [{}, {}, {}], [[], [], {}], ["ab", {}, {}], "abc", {"a": 1}, None
    wrong += [{"body": base64.b64encode(json.dumps(each).encode()).decode()} for each in bodies]
    wrong += [{"properties": each} for each in ({}, [], {"delivery_tag": 7})]
    return ["", "{", "null", "7", "[]", "{}", *(json.dumps(task() | each) for each in wrong)]


def test_worker_goes_on_after_any_message(berlin_worker, berlin_client, caplog):
    with redis.Redis.from_url(berlin_worker.redis_url) as client:
        for message in invalid_messages():
            client.lpush(names.QUEUE, message)
            # Each by itself, since one that ends the consumer may stay on the queue.
            job_id = berlin_client.submit("after it", provider="echo")
            assert berlin_client.result(job_id, 30).text == "after it", message
        assert client.llen(names.QUEUE) == 0
    assert "was dropped" in caplog.text


def test_worker_that_ends_by_itself_fails_the_test(monkeypatch, caplog):
    ended = threading.Event()

    def broken(*_: object) -> None:
        ended.set()
        raise OSError("no queue")

    monkeypatch.setattr(InProcessWorker, "_consume", broken)
    with pytest.raises(OSError, match="no queue"), InProcessWorker():
        assert ended.wait(30)


class Shouting(EchoProvider):
    """A provider of another package."""

    def check(self, job: PromptJob) -> None:
        if job.options.get("loud") is False:
            raise JobError(ErrorCode.INVALID_JOB, "it only shouts")

    async def stream(self, job: PromptJob, report: Report) -> AsyncGenerator[list[str], None]:
        if job.options.get("fails"):
            raise JobError(ErrorCode.UPSTREAM_ERROR, "hoarse")
        for word in str(job.messages[-1].content).split():
            await asyncio.sleep(0)
            yield [word.upper()]


def test_provider_plays_reasoning_and_tool_calls_of_the_test():
    plays = scripted(
        ReasoningDelta("Hm. "),
        "Wait",
        ToolCallDelta(0, "", id="a", name="f"),
        ToolCallDelta(0, "{}"),
        finish_reason="tool_calls",
        usage={"total_tokens": 3},
    )
    busy = scripted(JobError(ErrorCode.UPSTREAM_ERROR, "busy", upstream_status=503))
    providers = {"mine": plays, "busy": busy}
    with InProcessWorker(providers) as worker, worker.client() as client:
        fallbacks = [{"provider": "mine", "model": "m"}]
        result = client.result(client.submit("Hello", provider="busy", fallbacks=fallbacks))
    assert (result.text, result.reasoning) == ("Wait", "Hm. ")
    assert result.tool_calls == (AssembledToolCall("a", "f", "{}"),)
    assert (result.finish_reason, result.usage) == ("tool_calls", {"total_tokens": 3})
    assert (result.provider, result.model) == ("mine", "m")


def test_worker_serves_a_provider_of_the_tests_own():
    with InProcessWorker({"shout": Shouting}) as worker, worker.client() as client:
        assert client.result(client.submit("hey", provider="shout"), 30).text == "HEY"


class TestEcho(ProviderConformance):
    provider_class = EchoProvider
    invalid_jobs = ({"options": {"unknown": 1}}, {"options": {"repeat": 0}})


class TestShouting(ProviderConformance):
    provider_class = Shouting
    invalid_jobs = ({"options": {"loud": False}},)
    failing_job = {"options": {"fails": True}}  # noqa: RUF012  # as a user writes it


class _Bad(Shouting):
    """A provider that breaks a rule; each subclass breaks another one."""


class _Empty(_Bad):
    async def stream(self, job: PromptJob, report: Report) -> AsyncGenerator[list[str], None]:
        yield [""]


class _Silent(_Bad):
    async def stream(self, job: PromptJob, report: Report) -> AsyncGenerator[list[str], None]:
        return
        yield []


class _Bare(_Bad):
    async def stream(self, job: PromptJob, report: Report) -> AsyncGenerator[list[str], None]:
        yield "text"  # type: ignore[misc]  # the broken rule


class _Raises(_Bad):
    async def stream(self, job: PromptJob, report: Report) -> AsyncGenerator[list[str], None]:
        raise KeyError("x")
        yield []


class _Lenient(_Bad):
    def check(self, job: PromptJob) -> None:
        """Takes all."""


class _WrongCode(_Bad):
    def check(self, job: PromptJob) -> None:
        if job.options:
            raise JobError(ErrorCode.INTERNAL, "no")


@pytest.mark.parametrize("bad", [_Empty, _Silent, _Bare, _Raises, _Lenient, _WrongCode])
def test_provider_that_breaks_a_rule_fails_a_conformance_test(bad):
    class Tested(ProviderConformance):
        provider_class = bad
        invalid_jobs = ({"options": {"loud": False}},)

    failures = 0
    for name in dir(Tested):
        if name.startswith("test_"):
            try:
                getattr(Tested(), name)()
            except (AssertionError, KeyError):
                failures += 1
    assert failures


def test_provider_gets_the_environment_of_its_tests():
    seen = []

    def made(services: Services) -> Shouting:
        seen.append(services.environ["MY_KEY"])
        return Shouting(services)

    class Tested(ProviderConformance):
        provider_class = staticmethod(made)
        environ = {"MY_KEY": "x"}  # noqa: RUF012  # as a user writes it

    Tested().test_check_takes_a_valid_job()
    assert seen == ["x"]


def test_worker_that_cannot_start_raises_its_error(monkeypatch):
    async def serve(_):
        raise RuntimeError("no loop for it")

    monkeypatch.setattr(InProcessWorker, "_serve", serve)
    with pytest.raises(RuntimeError, match="no loop for it"), InProcessWorker():
        pass
