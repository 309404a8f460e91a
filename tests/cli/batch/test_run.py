"""A batch that runs: the order of its results, its bounds, and an outage of Redis."""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from berlin_schemas import Cancelled, Failed, InvalidJob
from berlin_schemas.errors import ErrorCode, ErrorInfo
from berlin_worker.cli.batch.files import BatchFiles
from berlin_worker.cli.batch.lines import BadLine, Line
from berlin_worker.cli.batch.send import Sender
from berlin_worker.client import AssembledToolCall, CursorExpired, JobFailed, Result, Unavailable
from tests.support.batch import TIMINGS, FakeClient, line, written

pytestmark = pytest.mark.unit


async def run(client: FakeClient, files: BatchFiles, lines: Any, **options: Any) -> None:
    options = {"concurrency": 4, "on_result": lambda result: None, **options}
    await Sender(client, files, **options).run(lines)


async def test_results_are_in_the_order_of_the_lines(files: BatchFiles) -> None:
    client = FakeClient(at_once=False)
    running = asyncio.create_task(run(client, files, [line(1), line(2), line(3)]))
    for number in (3, 2, 1):
        assert written(files) == []
        client.gate(f"job-{number}").set()
        await asyncio.sleep(0)
    await running
    assert [result["line"] for result in written(files)] == [1, 2, 3]
    assert written(files)[0] == {
        "line": 1,
        "job_id": "job-1",
        "status": "completed",
        "text": "text of job-1",
        "finish_reason": "stop",
        "usage": None,
        "timings": TIMINGS.model_dump(),
    }


async def test_bounded_number_is_in_flight_and_in_memory(files: BatchFiles) -> None:
    client = FakeClient(at_once=False)
    read = 0

    def lines() -> Iterator[Line]:
        nonlocal read
        for read in range(1, 10_001):
            yield line(read)
            if read > 1:
                client.gate(f"job-{read}").set()

    running = asyncio.create_task(run(client, files, lines()))
    # The first job does not end: the others go on, as far as their results may wait for it.
    before = -1
    while read != before:
        before = read
        for _ in range(50):
            await asyncio.sleep(0)
    assert client.most_in_flight <= 4
    assert 4 < read <= 4 * 8 + 1
    client.gate("job-1").set()
    await running
    assert [result["line"] for result in written(files)] == list(range(1, 10_001))
    assert client.most_in_flight <= 4


async def test_job_without_a_text_has_a_result(files: BatchFiles) -> None:
    head: dict[str, Any] = {"job_id": "j", "seq": 1, "attempt": 1, "ts": 0.0}
    error = ErrorInfo(code=ErrorCode.RATE_LIMITED, message="wait", retryable=True)
    client = FakeClient()
    client.ends = {
        "job-1": JobFailed(Failed(**head, error=error)),
        "job-2": JobFailed(Cancelled(**head, reason="asked")),
        "job-3": CursorExpired("gone"),
    }
    results: list[dict[str, Any]] = []
    lines = [line(1), line(2), line(3), BadLine(4, "no JSON"), line(5)]
    await run(client, files, lines, on_result=results.append, skip=frozenset({5}))
    assert results == written(files)
    assert [result["status"] for result in results] == [
        *("failed", "cancelled", "expired", "failed", "expired"),
    ]
    assert results[0]["error"]["code"] == "rate_limited"
    assert results[1]["reason"] == "asked"
    assert results[3] == {
        "line": 4,
        "job_id": None,
        "status": "failed",
        "error": {"code": "invalid_job", "message": "no JSON", "retryable": False},
    }
    assert client.sent["job-5"] == 0


async def test_result_has_reasoning_tool_calls_and_the_sum_of_usage_if_the_job_has(
    files: BatchFiles,
) -> None:
    call = AssembledToolCall("call_1", "weather", '{"place": "Berlin"}')
    client = FakeClient()
    client.results["job-2"] = Result(
        *("", "tool_calls", TIMINGS, {"total_tokens": 3}),
        reasoning="Hm",
        tool_calls=(call,),
        usage_total={"total_tokens": 5},
    )
    await run(client, files, [line(1), line(2)])
    plain, full = written(files)
    assert not {"reasoning", "tool_calls", "usage_total"} & set(plain)
    assert full["reasoning"] == "Hm"
    assert full["tool_calls"] == [
        {
            "id": "call_1",
            "type": "function",
            "function": {"name": "weather", "arguments": '{"place": "Berlin"}'},
        }
    ]
    assert (full["usage"], full["usage_total"]) == ({"total_tokens": 3}, {"total_tokens": 5})


async def test_message_that_the_broker_refuses_is_a_failed_line(files: BatchFiles) -> None:
    client = FakeClient()
    client.refused["job-1"] = InvalidJob("the message is too large")
    await run(client, files, [line(1), line(2)])
    assert [result["status"] for result in written(files)] == ["failed", "completed"]
    assert written(files)[0]["error"]["message"] == "the message is too large"


async def test_outage_of_redis_ends_the_batch_and_keeps_its_results(files: BatchFiles) -> None:
    client = FakeClient()
    client.ends = {"job-3": Unavailable("Redis is away")}
    with pytest.raises(Unavailable):
        await run(client, files, map(line, range(1, 100)))
    assert [result["line"] for result in written(files)] == [1, 2]
    assert client.in_flight == 0


async def test_progress_is_written_before_a_job_is_sent(files: BatchFiles) -> None:
    noted: list[tuple[str, int]] = []

    class Watching(FakeClient):
        async def submit(self, prompt: dict[str, Any], *, job_id: str) -> str:
            noted.append((job_id, files.progress.sent))
            return await super().submit(prompt, job_id=job_id)

    await run(Watching(), files, map(line, range(1, 20)))
    assert all(sent >= int(job_id.removeprefix("job-")) for job_id, sent in noted)


async def test_resumed_batch_remembers_how_old_its_jobs_are(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    long_ago = time.time() - 3000
    with BatchFiles(path) as files:
        files.about_to_send(10, long_ago)
    # Killed again, while it follows the first of ten jobs that were sent long ago.
    with BatchFiles(path) as files:
        client = FakeClient(at_once=False)
        running = asyncio.create_task(run(client, files, map(line, range(1, 100)), concurrency=1))
        await client.begun.wait()
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
    with BatchFiles(path) as files:
        assert (files.progress.sent, files.progress.since) == (10, long_ago)
