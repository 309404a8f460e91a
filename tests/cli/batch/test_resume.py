"""Batches that run again: changed, inserted, removed and failed lines, and kills in between."""

import json
import os
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berlin_worker.cli.batch import run as command
from berlin_worker.client import Unavailable
from tests.support.batch import BatchRun

pytestmark = pytest.mark.unit


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


ANY_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from([-1, 10**9, 10**10, 10**400, "", "0" * 200])
    | st.text(st.characters()),  # half a surrogate pair too
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=3,
)
FIELDS = ["line", "id", "job_id", "fingerprint", "retry", "status", "text", "usage"]


@given(
    st.dictionaries(st.sampled_from(FIELDS), ANY_JSON, max_size=3),
    st.dictionaries(st.sampled_from(["run", "sent", "since", "later"]), ANY_JSON, max_size=2),
    st.booleans(),
)
def test_any_value_in_the_files_of_a_batch_is_refused_or_ignored(
    result: dict[str, Any], progress: dict[str, Any], retry: bool
) -> None:
    with tempfile.TemporaryDirectory() as home:
        batch = BatchRun(Path(home))
        batch.write("a", "b", "c")
        assert batch.run()[0] == 0
        first, second, third = batch.results()
        batch.out.write_text("".join(f"{json.dumps(x)}\n" for x in (first, second | result, third)))
        record = batch.out.with_name(f"{batch.out.name}.run")
        record.write_text(json.dumps(json.loads(record.read_text()) | progress).ljust(160))
        batch.write("c", "b", "new")
        code, err = batch.run("--expired=again", *(["--retry-failed"] if retry else []))
        assert "Error" not in err  # the name of an exception
        if code == 2:
            assert err.startswith(f"berlin: {batch.out} cannot be used for the results: ")
            assert err.count("\n") == 1
            return
        assert code == 0
        assert batch.texts()[::2] == ["answer to c", "answer to new"]
        # The next run can read what this one wrote.
        assert batch.run()[0] == 0


@pytest.mark.parametrize("depth", [190, 300, 450, 900, 100_000])
def test_result_of_any_depth_is_refused_or_kept(batch: BatchRun, depth: int) -> None:
    batch.write("a", "b")
    assert batch.run()[0] == 0
    nested = f'"usage":{"[" * depth}{"]" * depth}'
    batch.out.write_text(batch.out.read_text().replace('"usage": null', nested))
    batch.write("b", "a")
    code, err = batch.run()
    assert (code, err.count("\n")) == ((0, 1) if depth < 200 else (2, 1))
    assert "traceback" not in err
    assert batch.out.read_text().count("[") == 2 * depth


@given(RUNS)
def test_any_history_ends_with_the_right_answers_and_pays_no_job_twice(
    runs: list[tuple[list[str], set[str], bool, int]],
) -> None:
    """Run with other lines and other failing prompts each time; Redis may vanish during a run."""
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
        # A line that was absent from an input has lost its results. Each earlier run has left at
        # most one failed job of such a line, and each run here may find one of them.
        for _ in range(len(runs) + 1):
            code, err = batch.run("--retry-failed")
            if code == 0:
                break
        assert code == 0, err
        assert batch.texts() == [f"answer to {line}" for line in lines]
        assert [result["line"] for result in batch.results()] == list(range(1, len(lines) + 1))
        # At most as often as the line stood in one input.
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


def test_corrected_line_with_its_own_id_gets_another_id(batch: BatchRun) -> None:
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
    # The batch ended long ago: --retry-failed alone is no reason to ask.
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
