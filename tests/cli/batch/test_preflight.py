"""Checks and counts of a batch before anything is sent."""

import pytest

from berlin_worker.cli.batch.files import BatchFiles
from berlin_worker.cli.batch.lines import read_lines
from berlin_worker.cli.batch.preflight import WrongOutput, run_preflight
from tests.support.batch import parse, preflight_of, result_of

pytestmark = pytest.mark.unit


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


def test_preflight_of_an_empty_input_is_empty(files: BatchFiles) -> None:
    found = run_preflight(read_lines([], "run", {}), files.load())
    assert (found.total, found.done, found.in_place) == (0, 0, 0)
