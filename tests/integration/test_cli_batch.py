"""`berlin batch` as a process: killed, interrupted, and run again, without paying twice."""

import functools
import json
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli import Stack, cli_stack, end
from tests.support.workers import wait_until


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """One worker for all tests of this file."""
    with cli_stack() as stack:
        yield stack


class Files:
    """An input of ``count`` lines, told from others by their mark, and where its results go."""

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
        """Whether so many results are there."""
        return len(self.results) >= count

    def paid(self, stack: Stack) -> list[int]:
        """How often each line went upstream."""
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
def test_a_batch_that_was_killed_goes_on_without_paying_twice(stack: Stack, tmp_path: Path) -> None:
    files = Files(tmp_path, 60, "[[delay:0.02]]")
    for count in (5, 25):
        with stack.start(*files.arguments, "-c", "8") as process:
            wait_until(functools.partial(files.has, count), f"{count} results", timeout_s=90)
            process.kill()
            end(process)
        # As if it had died in the midst of a line.
        with files.out.open("ab") as out:
            out.write(b'{"line": 99, "job')
    code, _, err = stack.run(*files.arguments, timeout_s=90)
    assert code == 0, err
    assert [result["line"] for result in files.results] == list(range(1, 61))
    assert files.paid(stack) == [1] * 60


def test_ctrl_c_leaves_the_jobs_alone_and_the_next_run_finds_them(
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


def test_a_line_that_fails_is_a_result(stack: Stack, tmp_path: Path) -> None:
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


def test_without_redis_nothing_is_lost_and_one_line_says_so(stack: Stack, tmp_path: Path) -> None:
    files = Files(tmp_path, 3)
    code, out, err = stack.run(*files.arguments, env={"REDIS_URL": "redis://127.0.0.1:1/0"})
    assert (code, out) == (1, "")
    assert err.startswith("berlin: Redis at redis://127.0.0.1:1/0")
    assert len(err.splitlines()) == 1
    assert stack.run(*files.arguments)[0] == 0
    assert files.paid(stack) == [1] * 3
