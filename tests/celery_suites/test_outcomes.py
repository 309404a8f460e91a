"""The comparison of two runs of a suite: they may differ only in the outcomes that are listed."""

from pathlib import Path

import pytest

from tests.celery_suites.outcomes import (
    ANY,
    Difference,
    Next,
    Outcomes,
    after,
    complaints,
    expected_differences,
    figures,
    outcomes_of,
)

pytestmark = pytest.mark.unit

KNOWN = {"a": Difference("failed", "passed", "of processes alone")}
RACED = Difference("any", "passed", "chance decides")


@pytest.mark.parametrize(
    ("ours", "theirs", "count"),
    [
        ({"a": "failed", "b": "passed"}, {"a": "passed", "b": "passed"}, 0),
        ({"a": "failed", "b": "failed"}, {"a": "passed", "b": "failed"}, 0),
        ({"a": "failed", "b": "failed"}, {"a": "passed", "b": "passed"}, 1),
        ({"a": "failed"}, {"a": "passed", "b": "passed"}, 1),
        ({"a": "passed"}, {"a": "passed"}, 1),  # mended: the table must drop it
        ({}, {}, 1),
        ({"a": "failed", "raced": "passed"}, {"a": "passed", "raced": "passed"}, 0),
        ({"a": "failed", "raced": "failed"}, {"a": "passed", "raced": "passed"}, 0),
        ({"a": "failed", "raced": "failed"}, {"a": "passed", "raced": "failed"}, 1),
    ],
)
def test_each_difference_that_is_not_expected_is_a_complaint(ours, theirs, count):
    raced = {"raced": RACED} if "raced" in ours else {}
    assert len(complaints(ours, theirs, KNOWN | raced)) == count


def test_outcome_is_the_strongest_of_the_phases_and_subtests():
    found = outcomes_of([
        "started passed", "passed passed", "passed passed", "passed passed", "finished passed",
        "started failed", "passed failed", "failed failed", "passed failed", "finished failed",
        "started torn", "passed torn", "passed torn", "failed torn", "finished torn",
        "started skipped", "skipped skipped", "passed skipped", "finished skipped",
        "started rerun", "failed rerun", "started rerun", "passed rerun", "finished rerun",
        "started name[with spaces]", "passed name[with spaces]", "finished name[with spaces]",
    ])  # fmt: skip
    assert found == Outcomes(
        {
            "passed": "passed",
            "failed": "failed",
            "torn": "failed",
            "skipped": "skipped",
            "rerun": "passed",
            "name[with spaces]": "passed",
        },
        frozenset(),
    )


@pytest.mark.parametrize(
    "events",
    [
        ["started a"],  # hangs in its setup
        ["started a", "passed a"],  # in its call
        ["started a", "passed a", "failed a"],  # in its teardown
        ["started a", "passed a", "passed a", "passed a"],
    ],
)
def test_test_that_does_not_end_has_failed(events: list[str]):
    assert outcomes_of(events) == Outcomes({"a": "failed"}, frozenset({"a"}))


PASSED = Outcomes({"a": "passed"}, frozenset())
FAILED = Outcomes({"a": "failed"}, frozenset())
HUNG = Outcomes({"a": "passed", "b": "failed"}, frozenset("b"))
NOTHING = Outcomes({}, frozenset())


@pytest.mark.parametrize(
    ("code", "outcomes", "expected"),
    [
        (0, PASSED, Next.END),
        (1, FAILED, Next.END),
        (5, NOTHING, Next.END),
        (1, HUNG, Next.RESUME),  # the limit of a step
        (-11, HUNG, Next.RESUME),  # a crash
        (1, PASSED, Next.RESUME),  # the limit, between two tests
        (-11, FAILED, Next.RESUME),
        (1, NOTHING, Next.BROKEN),  # the limit, while pytest collects
        (2, NOTHING, Next.BROKEN),  # an error of collection
        (4, NOTHING, Next.BROKEN),  # a wrong argument
    ],
)
def test_step_after_each_outcome_of_a_process(code: int, outcomes: Outcomes, expected: Next):
    assert after(code, outcomes) is expected


def test_figures_name_all_that_did_not_pass():
    assert figures({"a": "passed", "b": "passed"}) == "2 of 2 passed"
    assert (
        figures({"a": "passed", "b": "failed", "c": "skipped", "d": "skipped"})
        == "1 of 4 passed, 1 failed, 2 skipped"
    )
    assert figures({}) == "0 of 0 passed"


@pytest.mark.parametrize("suite", ["celery", "kombu"])
def test_each_expected_difference_has_a_reason(suite: str):
    table = Path(__file__).parents[1] / "celery_suites" / "expected.toml"
    for name, known in expected_differences(table, suite).items():
        assert known.ours != known.theirs or known.ours == ANY, name
        assert len(known.reason) > 10, name
