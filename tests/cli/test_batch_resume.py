"""Batches that run again: changed, inserted, removed and failed lines, and kills in between."""

import asyncio
import contextlib
import io
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from berlin_schemas import Failed, Timings
from berlin_schemas.errors import ErrorCode, ErrorInfo
from berlin_schemas.fingerprint import fingerprint
from berlin_worker.cli import main
from berlin_worker.cli.batch import run as command
from berlin_worker.cli.batch.files import BatchFiles
from berlin_worker.cli.batch.lines import read_lines
from berlin_worker.cli.batch.preflight import run_preflight
from berlin_worker.client import JobFailed, JobIdReused, JobStatus, Result, Unavailable

pytestmark = pytest.mark.unit

TIMINGS = Timings(queue_ms=1, login_ms=0, first_chunk_ms=2, stream_ms=3, total_ms=4)


class Fleet:
    """Jobs end at once, once for each ID: prompts that are ``broken`` fail."""

    def __init__(self) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.paid: Counter[str] = Counter()
        self.broken: set[str] = set()
        self.failed: set[str] = set()
        self.left = -1
        """So many submissions until Redis is away; never, below 0."""

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
        """How many jobs with this prompt were completed."""
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

    def run(self, *options: str, stdin: bytes | None = None) -> tuple[int, str]:
        arguments = ["batch", str(self.source), "-o", str(self.out), *options]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(command, "open_client", lambda: contextlib.nullcontext(self.fleet))
            found = CliRunner().invoke(main, arguments, input=stdin)
        assert not found.exception or isinstance(found.exception, SystemExit), found.exception
        return found.exit_code, found.stderr

    def results(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.read_text().splitlines()]

    def texts(self) -> list[str | None]:
        return [result.get("text") for result in self.results()]


@pytest.fixture
def batch(tmp_path: Path) -> BatchRun:
    return BatchRun(tmp_path)


PROMPTS = st.sampled_from(["a", "b", "c", "d"])
RUNS = st.lists(
    st.tuples(
        st.lists(PROMPTS, min_size=1, max_size=7),
        st.sets(PROMPTS, max_size=2),
        st.booleans(),
        st.integers(-1, 5),
    ),
    min_size=1,
    max_size=5,
)


@given(RUNS)
def test_any_history_ends_with_the_right_answers_and_pays_no_job_twice(
    runs: list[tuple[list[str], set[str], bool, int]],
) -> None:
    """Each run has other lines, other prompts that fail, and may lose Redis on its way."""
    with tempfile.TemporaryDirectory() as home:
        batch = BatchRun(Path(home))
        most: Counter[str] = Counter()
        for lines, broken, retry, left in runs:
            batch.fleet.broken, batch.fleet.left = broken, left
            batch.write(*lines)
            most |= Counter(lines)
            code, err = batch.run(*(["--retry-failed"] if retry else []), "-c", "2")
            if code == 2:
                assert "the results of another input" in err
                return
        batch.fleet.broken, batch.fleet.left = set(), -1
        # The first may find jobs that have failed before, of lines that were away meanwhile.
        batch.run("--retry-failed")
        code, err = batch.run("--retry-failed")
        assert code == 0, err
        assert batch.texts() == [f"answer to {line}" for line in lines]
        assert [result["line"] for result in batch.results()] == list(range(1, len(lines) + 1))
        # As often as the line stood in one input at the most.
        assert all(batch.fleet.answered(line) <= most[line] for line in most)


def test_corrected_line_runs_alone(batch: BatchRun) -> None:
    batch.fleet.broken = {"b"}
    batch.write("a", "b", "c")
    assert batch.run()[0] == 1
    batch.write("a", "B", "c")
    assert batch.run()[0] == 0
    assert batch.texts() == ["answer to a", "answer to B", "answer to c"]
    assert len(batch.fleet.jobs) == 4
    assert not batch.out.with_name("out.jsonl.kept").exists()


def test_corrected_line_with_its_own_id_gets_another(batch: BatchRun) -> None:
    batch.write("a", {"job_id": "mine", "prompt": "b"}, "c")
    assert batch.run()[0] == 0
    batch.write("a", {"job_id": "mine", "prompt": "B"}, "c")
    code, err = batch.run()
    assert code == 0
    assert batch.texts() == ["answer to a", "answer to B", "answer to c"]
    assert batch.results()[1]["job_id"] == "mine_retry1"
    assert "1 results of lines that are no longer in the input" in err
    assert batch.run()[0] == 0
    assert len(batch.fleet.jobs) == 4


def test_corrected_bad_line_runs_alone(batch: BatchRun) -> None:
    batch.write("a", {"promt": "b"}, "c")
    assert batch.run("--keep-going")[0] == 1
    batch.write("a", {"prompt": "b"}, "c")
    assert batch.run()[0] == 0
    assert batch.texts() == ["answer to a", "answer to b", "answer to c"]
    assert len(batch.fleet.jobs) == 3


def test_only_failed_lines_are_retried_and_only_on_demand(batch: BatchRun) -> None:
    batch.fleet.broken = {"b", "d"}
    batch.write("a", "b", "c", "d")
    assert batch.run()[0] == 1
    assert batch.run()[0] == 1
    assert len(batch.fleet.jobs) == 4
    batch.fleet.broken = {"d"}
    code, err = batch.run("--retry-failed")
    assert code == 1
    assert "4 of 4 results, 1 of them not completed" in err
    assert batch.texts() == ["answer to a", "answer to b", "answer to c", None]
    batch.fleet.broken = set()
    assert batch.run("--retry-failed")[0] == 0
    assert batch.results()[3]["retry"] == 2
    assert len(batch.fleet.jobs) == 7
    assert batch.run("--retry-failed")[0] == 0
    assert len(batch.fleet.jobs) == 7


def test_inserted_line_runs_alone(batch: BatchRun) -> None:
    batch.write("a", "c", {"id": "x", "prompt": "d"})
    assert batch.run()[0] == 0
    batch.write("a", "b", "c", {"id": "y", "prompt": "d"})
    assert batch.run()[0] == 0
    assert [(r["line"], r["text"]) for r in batch.results()] == [
        *((1, "answer to a"), (2, "answer to b"), (3, "answer to c"), (4, "answer to d")),
    ]
    assert batch.results()[3]["id"] == "y"
    assert len(batch.fleet.jobs) == 4


def test_kill_while_results_are_set_aside_loses_no_result(
    batch: BatchRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch.write("a", "b", "c")
    assert batch.run()[0] == 0
    batch.write("new", "a", "b", "c")
    truncate = os.truncate

    def killed(*_: object) -> None:
        raise Unavailable("killed")

    monkeypatch.setattr(os, "truncate", killed)
    assert batch.run()[0] == 1
    monkeypatch.setattr(os, "truncate", truncate)
    batch.fleet.left = 0
    assert batch.run()[0] == 1
    batch.fleet.left = -1
    assert batch.run()[0] == 0
    assert batch.texts() == [f"answer to {text}" for text in ("new", "a", "b", "c")]
    assert len(batch.fleet.jobs) == 4


def test_two_payloads_under_one_id_send_nothing(
    batch: BatchRun,
) -> None:
    batch.write({"job_id": "a-1", "prompt": "one"}, "x", {"job_id": "a-1", "prompt": "two"})
    for options in ([], ["--keep-going"]):
        code, err = batch.run(*options)
        assert code == 2
        assert "lines 1 and 3 have the job_id a-1, and different payloads; nothing was sent" in err
        assert len(err.splitlines()) == 1
    assert not batch.fleet.jobs


@pytest.mark.parametrize(
    "twin",
    [
        {"job_id": "a-1", "prompt": "one"},
        {"prompt": "one", "job_id": "a-1", "model": "gpt-3.5-turbo"},
        {"messages": [{"content": "one", "role": "user"}], "job_id": "a-1", "id": "label"},
    ],
)
def test_two_lines_of_one_id_and_one_payload_share_a_job(
    batch: BatchRun, twin: dict[str, Any]
) -> None:
    batch.write({"job_id": "a-1", "prompt": "one"}, twin, "x")
    assert batch.run()[0] == 0
    assert batch.texts() == ["answer to one", "answer to one", "answer to x"]
    assert len(batch.fleet.jobs) == 2
    before = batch.out.read_bytes()
    assert batch.run()[0] == 0
    assert batch.out.read_bytes() == before


def test_reused_id_of_another_job_is_a_failed_line(batch: BatchRun) -> None:
    batch.fleet.jobs["mine"] = {"messages": [{"role": "user", "content": "of somebody else"}]}
    batch.write("a", {"job_id": "mine", "prompt": "b"})
    assert batch.run()[0] == 1
    assert batch.texts() == ["answer to a", None]
    assert "another payload" in batch.results()[1]["error"]["message"]


def test_results_of_another_input_are_not_changed(batch: BatchRun) -> None:
    batch.write("a", "b")
    assert batch.run()[0] == 0
    before = batch.out.read_bytes()
    batch.write("x", "y", "z")
    code, err = batch.run()
    assert code == 2
    assert "it holds the results of another input" in err
    assert batch.out.read_bytes() == before
    assert len(batch.fleet.jobs) == 2


def test_retry_killed_long_ago_is_not_paid_again_without_consent(
    batch: BatchRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch.fleet.broken = {"b"}
    batch.write("a", "b", "c")
    assert batch.run()[0] == 1
    # Done long ago: that a line is wanted again is no reason to ask.
    now = time.time()
    monkeypatch.setattr(command.time, "time", lambda: now + 100_000)
    batch.fleet.left = 0
    assert "Redis is away" in batch.run("--retry-failed")[1]
    monkeypatch.setattr(command.time, "time", lambda: now + 200_000)
    code, err = batch.run("--retry-failed")
    assert code == 1
    assert "(lines 2); nothing was sent" in err
    assert batch.run("--retry-failed", "--expired", "again")[0] == 1
    batch.fleet.broken, batch.fleet.left = set(), -1
    assert batch.run("--retry-failed", "--expired", "again")[0] == 0
    assert batch.texts() == ["answer to a", "answer to b", "answer to c"]


# --- stdin, stdout, encodings --------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_an_input_may_have_a_mark_crlf_and_blank_lines(batch: BatchRun, encoding: str) -> None:
    batch.source.write_bytes('"ä"\r\n\r\n   \r\n{"prompt": "😀"}\r\n'.encode(encoding))
    assert batch.run()[0] == 0
    assert batch.texts() == ["answer to ä", "answer to 😀"]
    assert [result["line"] for result in batch.results()] == [1, 4]


def test_binary_line_is_a_bad_line(batch: BatchRun) -> None:
    batch.source.write_bytes(b'"a"\n"\xff"\n')
    code, err = batch.run()
    assert code == 2
    assert ":2: not UTF-8 text (byte 2 of the line)" in err


def test_lines_may_come_from_stdin_and_the_next_run_finds_its_results(
    batch: BatchRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch.source = Path("-")
    batch.fleet.left = 1
    lines = b'\xef\xbb\xbf"a"\n"b"\n'
    assert batch.run("-c", "1", stdin=lines)[0] == 1
    batch.fleet.left = -1
    assert batch.run(stdin=lines)[0] == 0
    assert batch.texts() == ["answer to a", "answer to b"]
    assert sum(batch.fleet.paid.values()) == 2


def test_results_may_go_to_stdout(batch: BatchRun, monkeypatch: pytest.MonkeyPatch) -> None:
    batch.write("ä", {"promt": 1})
    fleet = batch.fleet
    monkeypatch.setattr(command, "open_client", lambda: contextlib.nullcontext(fleet))
    found = CliRunner().invoke(main, ["batch", str(batch.source), "-o", "-", "--keep-going"])
    assert found.exit_code == 1
    results = [json.loads(line) for line in found.stdout.splitlines()]
    assert [result["status"] for result in results] == ["completed", "failed"]
    assert "2 of 2 results, 1 of them not completed in stdout" in found.stderr
    assert [path.name for path in batch.source.parent.iterdir()] == ["in.jsonl"]


# --- files ---------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> Iterator[BatchFiles]:
    with BatchFiles(tmp_path / "out.jsonl") as opened:
        yield opened


def test_result_set_aside_exists_once_and_is_read_back(files: BatchFiles) -> None:
    results = [
        {"line": number, "job_id": f"j{number}", "status": "completed"} for number in (1, 2, 3)
    ]
    for result in results:
        files.add(result)
    known = files.set_aside(files.load(), 1)
    assert [json.loads(line) for line in files.results()] == results[:1]
    known = files.set_aside(known, 0)
    assert known.in_file == 0
    kept = sorted((files.kept(place) for place in known.places), key=lambda each: each["line"])
    assert kept == results
    files.finish(unused=3)
    assert len(files.load().places) == 3
    files.finish(unused=0)
    assert not files.load().places


def test_lines_of_one_payload_have_ids_of_their_own() -> None:
    def ids(text: str) -> list[str | None]:
        return [line.job_id for line in read_lines(io.BytesIO(text.encode()), "run", {})]

    [a, b, c] = ids('"x"\n"y"\n"x"\n')
    assert len({a, b, c}) == 3
    assert ids('"new"\n"x"\n"x"\n"y"\n')[1:] == [a, c, b]


def test_preflight_of_an_empty_input_is_empty(files: BatchFiles) -> None:
    found = run_preflight(read_lines([], "run", {}), files.load())
    assert (found.total, found.done, found.in_place) == (0, 0, 0)
