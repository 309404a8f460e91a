"""Batches: what is sent for a line, the files that survive a crash, and the order of results."""

import asyncio
import contextlib
import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from berlin_schemas import Cancelled, Failed, Timings
from berlin_schemas.errors import ErrorCode, ErrorInfo
from berlin_worker.cli import main
from berlin_worker.cli.batch import run as command
from berlin_worker.cli.batch.files import BatchFiles
from berlin_worker.cli.batch.lines import BadLine, Line, read_lines
from berlin_worker.cli.batch.preflight import KnownResults, Preflight, WrongOutput, run_preflight
from berlin_worker.cli.batch.send import Sender
from berlin_worker.cli.errors import Problem
from berlin_worker.client import CursorExpired, JobFailed, JobStatus, Result, Unavailable

pytestmark = pytest.mark.unit

TIMINGS = Timings(queue_ms=1, login_ms=0, first_chunk_ms=2, stream_ms=3, total_ms=4)


class FakeClient:
    """Jobs end when the test says so, or at once; counts what is sent."""

    def __init__(self, *, at_once: bool = True) -> None:
        self.sent: Counter[str] = Counter()
        self.paid: Counter[str] = Counter()
        self.in_flight = 0
        self.begun = asyncio.Event()
        self.most_in_flight = 0
        self.ends: dict[str, Exception] = {}
        self._gates: dict[str, asyncio.Event] = {}
        self._at_once = at_once

    def gate(self, job_id: str) -> asyncio.Event:
        return self._gates.setdefault(job_id, asyncio.Event())

    async def submit(self, prompt: dict[str, Any], *, job_id: str) -> str:
        if not self.sent[job_id]:
            self.paid[job_id] += 1
        self.sent[job_id] += 1
        self.in_flight += 1
        self.begun.set()
        self.most_in_flight = max(self.in_flight, self.most_in_flight)
        return job_id

    async def result(self, job_id: str) -> Result:
        try:
            await (asyncio.sleep(0) if self._at_once else self.gate(job_id).wait())
        finally:
            self.in_flight -= 1
        if job_id in self.ends:
            raise self.ends[job_id]
        return Result(f"text of {job_id}", "stop", TIMINGS, None)

    async def status(self, job_id: str) -> JobStatus:
        return JobStatus(job_id, "completed" if self.sent[job_id] else "unknown")


def line(number: int) -> Line:
    return Line(number, f"job-{number}", {"messages": []})


def parse(*texts: str, run_key: str = "key", **defaults: Any) -> list[Line | BadLine]:
    return list(read_lines((text.encode() + b"\n" for text in texts), run_key, defaults))


def problem_of(text: str) -> str:
    [found] = parse(text)
    assert isinstance(found, BadLine)
    return found.problem


@pytest.fixture
def files(tmp_path: Path) -> Iterator[BatchFiles]:
    with BatchFiles(tmp_path / "out.jsonl") as opened:
        yield opened


def written(files: BatchFiles) -> list[dict[str, Any]]:
    return [json.loads(result) for result in files.results()]


# --- Lines ---------------------------------------------------------------------------------


def test_a_line_is_a_string_a_prompt_or_a_job() -> None:
    for text in (
        '"Hello"',
        '{"prompt": "Hello"}',
        '{"messages": [{"role": "user", "content": "Hello"}]}',
    ):
        [found] = parse(text)
        assert isinstance(found, Line)
        assert found.job == {"messages": [{"role": "user", "content": "Hello"}]}


def test_blank_lines_count_but_are_not_sent() -> None:
    found = parse("", '"a"', "  \t", '"b"')
    assert [line.number for line in found] == [2, 4]


def test_byte_order_mark_is_removed_from_the_first_line() -> None:
    [found] = read_lines([b'\xef\xbb\xbf"a"\r\n'], "key", {})
    assert isinstance(found, Line)


def test_options_of_the_command_are_defaults() -> None:
    [found] = parse(
        '{"prompt": "x", "model": "b", "options": {"temperature": 1}}',
        model="a",
        system="Be brief.",
        options={"temperature": 0, "max_tokens": 5},
        tenant=None,
    )
    assert isinstance(found, Line)
    assert found.job == {
        "model": "b",
        "options": {"temperature": 1, "max_tokens": 5},
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "x"},
        ],
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "not JSON"),
        ("3", "neither an object nor a string"),
        ("{}", "neither prompt nor messages"),
        ('""', "prompt: must be a string that is not empty"),
        ('{"prompt": 3}', "prompt: must be a string"),
        ('{"prompt": "x", "messages": []}', "exclude each other"),
        ('{"prompt": "x", "modle": "y"}', "modle: no such field"),
        ('{"prompt": "x", "id": [1]}', "id: must be"),
        ('{"prompt": "x", "job_id": "../x"}', "job_id: must be"),
        ('{"prompt": "\\ud800"}', "surrogate"),
        ("[" * 100_000, ""),
    ],
)
def test_bad_line_has_a_reason(text: str, expected: str) -> None:
    assert expected in problem_of(text)


def test_a_line_has_the_same_id_in_the_same_run_only() -> None:
    [a, twin] = parse('"x"', '"x"')
    assert parse('"x"') == [a]
    assert parse('  {"prompt" : "x"} ')[0].job_id == a.job_id
    others = [twin, *parse('"y"'), *parse('"x"', run_key="other"), *parse('"x"', model="m")]
    assert len({a.job_id, *(other.job_id for other in others)}) == 5


def test_own_job_id_of_a_line_is_kept() -> None:
    [found] = parse('{"prompt": "x", "job_id": "mine", "id": 7}')
    assert isinstance(found, Line)
    assert (found.job_id, found.label) == ("mine", 7)


def result_of(found: Line | BadLine, status: str = "completed") -> bytes:
    result = {"line": found.number, "job_id": found.job_id, "status": status}
    return json.dumps(result).encode() + b"\n"


def preflight_of(lines: list[Line | BadLine], results: list[bytes], **options: bool) -> Preflight:
    known = KnownResults()
    for place, result in enumerate(results):
        known.add(place, result, in_order=True)
    return run_preflight(lines, known, **options)


def test_preflight_counts_before_anything_is_sent() -> None:
    lines = parse('"a"', '"b"', "bad", '"d"')
    found = preflight_of(lines, [result_of(lines[0]), result_of(lines[1], "failed")])
    assert (found.total, found.done, found.failed, found.bad) == (4, 2, 1, 1)
    assert found.in_place == 2
    assert found.bad_examples == [lines[2]]


@pytest.mark.parametrize(
    "results",
    [
        [b'{"line": 2, "job_id": "batch-x"}\n'],
        [b'{"line": 2, "job_id": "batch-x", "status": "completed"}\n'],
        [b'{"line": 1, "job_id": "another", "status": "completed"}\n'],
        [b"no JSON\n"],
        [b"[]\n"],
    ],
)
def test_results_of_another_input_are_not_added_to(results: list[bytes]) -> None:
    with pytest.raises(WrongOutput):
        preflight_of(parse('"a"', '"b"'), results)


def test_completed_results_of_removed_lines_are_counted() -> None:
    [a, b, c] = parse('"a"', '"b"', '"c"')
    found = preflight_of([a], [result_of(a), result_of(b), result_of(c, "failed")])
    assert (found.done, found.in_place, found.unused) == (1, 1, 1)


# --- Files ---------------------------------------------------------------------------------


def test_a_torn_last_result_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with BatchFiles(path) as files:
        files.add({"line": 1, "text": "ü\n"})
        run = files.progress.run
    with path.open("ab") as out:
        out.write(b'{"line": 2, "te')
    with BatchFiles(path) as files:
        assert files.progress.run == run
        assert [json.loads(result)["line"] for result in files.results()] == [1]
        files.add({"line": 2})
        assert [json.loads(result)["line"] for result in files.results()] == [1, 2]


def test_progress_survives_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with BatchFiles(path) as files:
        files.about_to_send(12_345_678, 1_795_342_555.123)
        files.about_to_send(7, 1_795_342_556.0)
        note = files.progress
    with BatchFiles(path) as files:
        assert files.progress == note
        assert files.progress.sent == 12_345_678


def test_removed_results_start_the_batch_over(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with BatchFiles(path) as files:
        run = files.progress.run
    path.unlink()
    with BatchFiles(path) as files:
        assert files.progress.run != run
        assert files.progress.sent == 0


def test_file_of_another_program_is_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("dear diary")
    with pytest.raises(WrongOutput):
        BatchFiles(path)
    assert path.read_text() == "dear diary"
    assert list(tmp_path.iterdir()) == [path]


def test_an_empty_file_may_be_used(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.touch()
    with BatchFiles(path) as files:
        assert list(files.results()) == []


def test_two_batches_do_not_write_the_same_results(files: BatchFiles) -> None:
    with pytest.raises(WrongOutput, match="another batch"):
        BatchFiles(files.path)


# --- Running -------------------------------------------------------------------------------


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


async def test_a_bounded_number_is_in_flight_and_in_memory(files: BatchFiles) -> None:
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


async def test_a_job_without_a_text_has_a_result(files: BatchFiles) -> None:
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


async def test_a_resumed_batch_remembers_how_old_its_jobs_are(tmp_path: Path) -> None:
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


# --- The command ---------------------------------------------------------------------------


@pytest.fixture
def fake_client(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    client = FakeClient()
    monkeypatch.setattr(command, "open_client", lambda: contextlib.nullcontext(client))
    return client


def invoke(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["batch", *map(str, arguments)])
    assert result.stdout == ""
    return result.exit_code, result.stderr


def test_nothing_is_sent_while_a_line_is_bad(tmp_path: Path, fake_client: FakeClient) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('"a"\n{"promt": "b"}\n')
    code, err = invoke(source, "-o", out)
    assert code == 2
    assert f"{source}:2: neither prompt nor messages" in err
    assert "nothing was sent" in err
    assert not fake_client.sent
    code, err = invoke(source, "-o", out, "--keep-going")
    assert code == 1
    assert "2 of 2 results, 1 of them not completed" in err
    assert len(fake_client.sent) == 1


def test_a_batch_that_is_done_sends_nothing(tmp_path: Path, fake_client: FakeClient) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('"a"\n"b"\n')
    assert invoke(source, "-o", out)[0] == 0
    before = out.read_bytes()
    assert invoke(source, "-o", out)[0] == 0
    assert out.read_bytes() == before
    assert set(fake_client.sent.values()) == {1}
    # Lines that were added since are sent; one that was changed has another job's result.
    source.write_text('"a"\n"b"\n"c"\n')
    assert invoke(source, "-o", out)[0] == 0
    assert len(fake_client.sent) == 3
    source.write_text('"a"\n"B"\n"c"\n')
    code, err = invoke(source, "-o", out)
    assert code == 0
    assert len(fake_client.sent) == 4
    results = [json.loads(result) for result in out.read_text().splitlines()]
    assert [result["line"] for result in results] == [1, 2, 3]
    assert f"1 results of lines that are no longer in the input are in {out}.kept" in err


def test_the_input_is_never_taken_for_the_output(tmp_path: Path, fake_client: FakeClient) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('"a"\n')
    assert invoke(source, "-o", source)[0] == 2
    assert source.read_text() == '"a"\n'


def test_named_pipe_is_refused_as_input(tmp_path: Path, fake_client: FakeClient) -> None:
    os.mkfifo(tmp_path / "in.jsonl")
    assert invoke(tmp_path / "in.jsonl", "-o", tmp_path / "out.jsonl")[0] == 2
    assert not (tmp_path / "out.jsonl").exists()


@pytest.fixture
def expired_batch(tmp_path: Path, fake_client: FakeClient) -> tuple[Path, Path]:
    """Two of three lines were sent long ago, one of them is still known to Redis."""
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('"a"\n"b"\n"c"\n')
    with BatchFiles(out) as files:
        files.about_to_send(2, time.time() - 100_000)
        with source.open("rb") as data:
            lines = list(read_lines(data, files.progress.run, {}))
    fake_client.sent[str(lines[1].job_id)] = 1
    return source, out


def test_expired_results_are_not_paid_again_without_consent(
    expired_batch: tuple[Path, Path], fake_client: FakeClient
) -> None:
    source, out = expired_batch
    code, err = invoke(source, "-o", out)
    assert code == 1
    assert "(lines 1); nothing was sent" in err
    assert "--expired=again" in err
    assert not fake_client.paid
    # Asked again, the answer is the same.
    assert invoke(source, "-o", out)[0] == 1


def test_expired_results_are_sent_again_on_demand(
    expired_batch: tuple[Path, Path], fake_client: FakeClient
) -> None:
    source, out = expired_batch
    assert invoke(source, "-o", out, "--expired", "again")[0] == 0
    assert sum(fake_client.paid.values()) == 2


def test_expired_results_are_skipped_on_demand(
    expired_batch: tuple[Path, Path], fake_client: FakeClient
) -> None:
    source, out = expired_batch
    assert invoke(source, "-o", out, "--expired", "skip")[0] == 1
    results = [json.loads(result)["status"] for result in out.read_text().splitlines()]
    assert results == ["expired", "completed", "completed"]
    assert sum(fake_client.paid.values()) == 1


def test_recently_sent_lines_need_no_consent(tmp_path: Path, fake_client: FakeClient) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('"a"\n"b"\n')
    # Killed between the note and the submission: the job was never sent.
    with BatchFiles(out) as files:
        files.about_to_send(2, time.time())
    assert invoke(source, "-o", out)[0] == 0


def test_interrupted_connection_has_a_hint(
    tmp_path: Path, fake_client: FakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(prompt: dict[str, Any], *, job_id: str) -> str:
        raise Unavailable("Redis is away")

    monkeypatch.setattr(fake_client, "submit", away)
    source = tmp_path / "in.jsonl"
    source.write_text('"a"\n')
    code, err = invoke(source, "-o", tmp_path / "out.jsonl")
    assert code == Problem("").exit_code
    assert "berlin: Redis is away; the same command goes on" in err
