"""Options of the command line that make a job."""

import pytest

from berlin_worker.cli.job_options import build_job, key_value

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("temperature=0.2", ("temperature", 0.2)),
        ("stop=null", ("stop", None)),
        ('list=["a"]', ("list", ["a"])),
        ("name=text with = in it", ("name", "text with = in it")),
        ("empty=", ("empty", "")),
    ],
)
def test_value_is_json_or_else_a_string(text: str, expected: tuple[str, object]) -> None:
    assert key_value(text) == expected


def test_job_has_only_the_options_that_are_given() -> None:
    base = {"messages": [{"role": "user", "content": "x"}], "options": {"a": 1, "b": 1}}
    given = {"system": "Be brief.", "options": {"b": 2}, "model": None, "deadline_s": 5.0}
    assert build_job(base, given) == {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "x"},
        ],
        "options": {"a": 1, "b": 2},
        "deadline_s": 5.0,
    }
