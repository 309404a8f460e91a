"""`berlin batch` as a process: killed, interrupted, and run again, without paying twice."""

import fcntl
import functools
import json
import signal
import sys
import termios
import uuid
from pathlib import Path
from typing import Any

import pytest
import redis

from berlin_worker.embedded.redis_server import RedisProcess
from tests.support.cli import Stack, end
from tests.support.workers import TIMEOUT_S, wait_until

pytestmark = pytest.mark.integration


class Files:
    """An input of ``count`` lines, identified by their mark, and the file of its results."""

    def __init__(self, home: Path, count: int, marker: str = "") -> None:
        self.mark = uuid.uuid4().hex
        self.source, self.out = home / "in.jsonl", home / "out.jsonl"
        self.texts = [f"{self.mark}-{number}- {marker}" for number in range(1, count + 1)]
        self.source.write_text("".join(f"{json.dumps(text)}\n" for text in self.texts))

    @property
    def results(self) -> list[dict[str, Any]]:
        if not self.out.exists():
            return []
        whole = self.out.read_text().rpartition("\n")[0]
        return [json.loads(line) for line in whole.splitlines()]

    def has(self, count: int) -> bool:
        """Return whether at least ``count`` results are there."""
        return len(self.results) >= count

    def paid(self, stack: Stack) -> list[int]:
        """Return how often each line was sent upstream."""
        return [stack.calls(f"{self.mark}-{number}-") for number in range(1, len(self.texts) + 1)]

    @property
    def arguments(self) -> tuple[str | Path, ...]:
        return ("batch", self.source, "-o", self.out)


def test_every_line_has_its_result_in_order(stack: Stack, tmp_path: Path) -> None:
    files = Files(tmp_path, 50)
    code, out, err = stack.run(*files.arguments, "-c", "8")
    assert (code, out) == (0, "")
    assert err == f"50 of 50 results in {files.out}\n"
    assert [result["line"] for result in files.results] == list(range(1, 51))
    assert {result["text"] for result in files.results} == {"one two three "}
    assert files.paid(stack) == [1] * 50


# A batch that dies between the record of a job and its message leaves the job to the workers,
# who look for such jobs after half a minute.
@pytest.mark.timeout(300)
def test_killed_batch_resumes_without_paying_twice(stack: Stack, tmp_path: Path) -> None:
    files = Files(tmp_path, 60, "[[delay:0.02]]")
    for count in (5, 25):
        with stack.start(*files.arguments, "-c", "8") as process:
            wait_until(functools.partial(files.has, count), f"{count} results", timeout_s=90)
            process.kill()
            end(process)
        # Cut the file within a line, as a killed process may leave it.
        with files.out.open("ab") as out:
            out.write(b'{"line": 99, "job')
    code, _, err = stack.run(*files.arguments, timeout_s=90)
    assert code == 0, err
    assert [result["line"] for result in files.results] == list(range(1, 61))
    assert files.paid(stack) == [1] * 60


def test_jobs_continue_after_ctrl_c_and_the_next_run_finds_them(
    stack: Stack, tmp_path: Path
) -> None:
    files = Files(tmp_path, 6, "[[delay:0.3]]")
    process = stack.start(*files.arguments, "-c", "3")
    wait_until(lambda: sum(files.paid(stack)) >= 3, "three jobs at the upstream")
    process.send_signal(signal.SIGINT)
    code, _, err = end(process)
    assert code == 130
    assert "jobs that were sent go on" in err
    assert "without paying twice" in err
    assert stack.run(*files.arguments)[0] == 0
    assert [result["status"] for result in files.results] == ["completed"] * 6
    assert files.paid(stack) == [1] * 6


def test_line_that_fails_is_a_result(stack: Stack, tmp_path: Path) -> None:
    files = Files(tmp_path, 3)
    with files.source.open("a") as source:
        source.write('{"id": "x", "prompt": "[[status:400]]"}\n{"promt": 1}\n')
    code, _, err = stack.run(*files.arguments, "--keep-going")
    assert code == 1
    assert "5 of 5 results, 2 of them not completed" in err
    assert [result["status"] for result in files.results[3:]] == ["failed", "failed"]
    assert files.results[3]["id"] == "x"
    assert files.results[3]["error"]["code"] == "upstream_error"
    assert files.results[4]["error"]["code"] == "invalid_job"


def test_failed_line_is_retried_and_a_corrected_one_runs_alone(
    stack: Stack, tmp_path: Path
) -> None:
    files = Files(tmp_path, 3)
    texts = [*files.texts, f"{files.mark}-4- [[status:400*1]]"]
    files.source.write_text("".join(f"{json.dumps(text)}\n" for text in texts))
    assert stack.run(*files.arguments)[0] == 1
    assert files.results[3]["status"] == "failed"
    assert stack.run(*files.arguments, "--retry-failed")[0] == 0
    assert stack.calls(f"{files.mark}-4-") == 2
    texts[1] = texts[1].replace("-2-", "-2b-")
    files.source.write_text("".join(f"{json.dumps(text)}\n" for text in texts))
    assert stack.run(*files.arguments)[0] == 0
    assert files.paid(stack) == [1, 1, 1]
    assert stack.calls(f"{files.mark}-2b-") == 1
    assert [result["line"] for result in files.results] == [1, 2, 3, 4]


def test_batch_reads_stdin_and_writes_stdout(stack: Stack) -> None:
    lines = b'"a"\n{"prompt": "b", "id": "x"}\n'
    code, out, err = stack.run("batch", "-", "-o", "-", stdin=lines)
    assert (code, err) == (0, "2 of 2 results in stdout\n")
    results = [json.loads(line) for line in out.splitlines()]
    assert [result["text"] for result in results] == ["one two three "] * 2
    assert results[1]["id"] == "x"


def test_ctrl_c_works_while_the_pipe_is_full(stack: Stack, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(json.dumps({"prompt": "a", "id": "x" * 2_000_000}))
    process = stack.start("batch", source, "-o", "-")
    assert process.stdout is not None
    pipe = process.stdout.fileno()
    wait_until(lambda: waiting_in(pipe), "a part of the result, which fits no pipe")
    process.send_signal(signal.SIGINT)
    assert process.wait(TIMEOUT_S) == 130
    assert "stopped with 0 of 1 results" in end(process)[2]


def waiting_in(pipe: int) -> int:
    """Return how many bytes a pipe holds."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


def test_batch_without_a_worker_leads_to_a_hint(
    stack: Stack, tmp_path: Path, redis_server: RedisProcess
) -> None:
    files = Files(tmp_path, 3)
    url = f"{redis_server.url.removesuffix('0')}5"
    process = stack.start(*files.arguments, env={"REDIS_URL": url})
    assert process.stderr is not None
    line = process.stderr.readline().decode()
    assert line == "no worker is running; start one with `berlin worker`\n"
    process.send_signal(signal.SIGINT)
    assert end(process)[0] == 130
    with redis.Redis.from_url(url) as client:
        client.flushdb()


def test_batch_without_redis_ends_with_one_line_and_loses_nothing(
    stack: Stack, tmp_path: Path
) -> None:
    files = Files(tmp_path, 3)
    code, out, err = stack.run(*files.arguments, env={"REDIS_URL": "redis://127.0.0.1:1/0"})
    assert (code, out) == (1, "")
    assert err.startswith("berlin: Redis at redis://127.0.0.1:1/0")
    assert len(err.splitlines()) == 1
    assert stack.run(*files.arguments)[0] == 0
    assert files.paid(stack) == [1] * 3
