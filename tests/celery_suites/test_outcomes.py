"""The comparison of two runs of a suite: only what is known, and as it is known, may differ."""

from pathlib import Path

import pytest

from tests.celery_suites.outcomes import (
    Difference,
    complaints,
    expected_differences,
    outcomes_of,
)

pytestmark = pytest.mark.unit

KNOWN = {"a": Difference("failed", "passed", "of processes alone")}


@pytest.mark.parametrize(
    ("ours", "theirs", "count"),
    [
        ({"a": "failed", "b": "passed"}, {"a": "passed", "b": "passed"}, 0),
        ({"a": "failed", "b": "failed"}, {"a": "passed", "b": "failed"}, 0),
        ({"a": "failed", "b": "failed"}, {"a": "passed", "b": "passed"}, 1),
        ({"a": "failed"}, {"a": "passed", "b": "passed"}, 1),
        ({"a": "passed"}, {"a": "passed"}, 1),  # mended: the table must say so
        ({}, {}, 1),
    ],
)
def test_each_difference_that_is_not_expected_is_a_complaint(ours, theirs, count):
    assert len(complaints(ours, theirs, KNOWN)) == count


def test_report_of_pytest_is_read(tmp_path: Path):
    report = tmp_path / "report.xml"
    report.write_text(
        "<testsuites><testsuite>"
        "<testcase classname='m' name='failed'><failure/></testcase>"
        "<testcase classname='m' name='torn'><error/></testcase>"
        "<testcase classname='m' name='skipped'><skipped/></testcase>"
        "<testcase classname='m' name='rerun'><failure/></testcase>"
        "<testcase classname='m' name='rerun'/>"
        "</testsuite></testsuites>"
    )
    assert outcomes_of(report) == {
        "m.failed": "failed",
        "m.torn": "failed",
        "m.skipped": "skipped",
        "m.rerun": "passed",
    }


@pytest.mark.parametrize("suite", ["celery", "kombu"])
def test_each_expected_difference_has_a_reason(suite: str):
    table = Path(__file__).parents[1] / "celery_suites" / "expected.toml"
    for name, known in expected_differences(table, suite).items():
        assert known.ours != known.theirs, name
        assert len(known.reason) > 10, name
