"""Batches of prompts for tests: their lines, and clients that answer without a server."""

import asyncio
import contextlib
import json
from collections import Counter
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from click.testing import CliRunner

from berlin_schemas import Failed, Timings
from berlin_schemas.errors import ErrorCode, ErrorInfo
from berlin_schemas.fingerprint import fingerprint
from berlin_worker.cli import main
from berlin_worker.cli.batch import run as command
from berlin_worker.cli.batch.files import BatchFiles
from berlin_worker.cli.batch.lines import BadLine, Line, read_lines
from berlin_worker.cli.batch.preflight import KnownResults, Preflight, run_preflight
from berlin_worker.client import JobFailed, JobIdReused, JobStatus, Result, Unavailable

TIMINGS = Timings(queue_ms=1, login_ms=0, first_chunk_ms=2, stream_ms=3, total_ms=4)


class FakeClient:
    """Jobs end when the test opens their gate, or at once; counts submissions."""

    def __init__(self, *, at_once: bool = True) -> None:
        self.sent: Counter[str] = Counter()
        self.paid: Counter[str] = Counter()
        self.in_flight = 0
        self.begun = asyncio.Event()
        self.most_in_flight = 0
        self.ends: dict[str, Exception] = {}
        self.refused: dict[str, Exception] = {}
        self.results: dict[str, Result] = {}
        self._gates: dict[str, asyncio.Event] = {}
        self._at_once = at_once

    def gate(self, job_id: str) -> asyncio.Event:
        return self._gates.setdefault(job_id, asyncio.Event())

    async def submit(self, prompt: dict[str, Any], *, job_id: str) -> str:
        if job_id in self.refused:
            raise self.refused[job_id]
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
        return self.results.get(job_id) or Result(f"text of {job_id}", "stop", TIMINGS, None)

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


def written(files: BatchFiles) -> list[dict[str, Any]]:
    return [json.loads(result) for result in files.results()]


def result_of(found: Line | BadLine, status: str = "completed") -> bytes:
    result = {"line": found.number, "job_id": found.job_id, "status": status}
    return json.dumps(result).encode() + b"\n"


def preflight_of(lines: list[Line | BadLine], results: list[bytes], **options: bool) -> Preflight:
    known = KnownResults()
    for place, result in enumerate(results):
        known.add(place, result, in_order=True)
    return run_preflight(lines, known, **options)


class Fleet:
    """Jobs end at once, once for each ID: prompts that are ``broken`` fail."""

    def __init__(self) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.paid: Counter[str] = Counter()
        self.broken: set[str] = set()
        self.failed: set[str] = set()
        self.left = -1
        """The number of submissions until Redis is away; below 0 it never is."""

    async def submit(self, prompt: dict[str, Any], *, job_id: str) -> str:
        if self.left == 0:
            raise Unavailable("Redis is away")
        self.left -= 1
        if fingerprint(self.jobs.setdefault(job_id, prompt)) != fingerprint(prompt):
            raise JobIdReused(job_id)
        text = str(prompt["messages"][-1]["content"])
        if job_id not in self.paid:
            self.paid[job_id] += 1
            if text in self.broken:
                self.failed.add(job_id)
        return job_id

    async def result(self, job_id: str) -> Result:
        await asyncio.sleep(0)
        if job_id in self.failed:
            error = ErrorInfo(code=ErrorCode.UPSTREAM_ERROR, message="m", retryable=True)
            raise JobFailed(Failed(job_id=job_id, seq=1, attempt=1, ts=0.0, error=error))
        text = self.jobs[job_id]["messages"][-1]["content"]
        return Result(f"answer to {text}", "stop", TIMINGS, None)

    async def status(self, job_id: str) -> JobStatus:
        return JobStatus(job_id, "completed" if job_id in self.jobs else "unknown")

    def answered(self, text: str) -> int:
        """Return how many jobs with this prompt were completed."""
        return sum(
            job["messages"][-1]["content"] == text and job_id not in self.failed
            for job_id, job in self.jobs.items()
        )


class BatchRun:
    """A file of prompts and its results."""

    def __init__(self, home: Path) -> None:
        self.source, self.out = home / "in.jsonl", home / "out.jsonl"
        self.fleet = Fleet()

    def write(self, *lines: object) -> None:
        self.source.write_text("".join(f"{json.dumps(line)}\n" for line in lines))

    def run(self, *options: str, stdin: bytes | BinaryIO | None = None) -> tuple[int, str]:
        arguments = ["batch", str(self.source), "-o", str(self.out), *options]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(command, "open_client", lambda **_: contextlib.nullcontext(self.fleet))
            found = CliRunner().invoke(main, arguments, input=stdin)
        assert not found.exception or isinstance(found.exception, SystemExit), found.exception
        return found.exit_code, found.stderr

    def results(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.read_text().splitlines()]

    def texts(self) -> list[str | None]:
        return [result.get("text") for result in self.results()]
