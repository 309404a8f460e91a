"""Sums of usage over attempts, and usage that an event cannot hold."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berlin_worker.jobs.usage import add_usage, encodable, usage_fields

pytestmark = pytest.mark.unit


numbers = st.integers(0, 2**52) | st.floats(0, 1e9, allow_nan=False)


usages = st.dictionaries(
    st.sampled_from(["a", "b", "c"]),
    numbers | st.dictionaries(st.sampled_from(["x", "y"]), numbers, max_size=2),
    max_size=3,
)


@given(usages, usages)
def test_sum_has_every_number_of_both(one, other):
    def flat(usage):
        for name, value in usage.items():
            if isinstance(value, dict):
                yield from (((name, nested), number) for nested, number in value.items())
            else:
                yield (name, None), value

    total = dict(flat(add_usage(one, other)))
    for place in {*dict(flat(one)), *dict(flat(other))}:
        # A name that is a number in one and an object in the other counts as the object.
        if place[1] is None and any(isinstance(each.get(place[0]), dict) for each in (one, other)):
            continue
        assert total.pop(place) == dict(flat(one)).get(place, 0) + dict(flat(other)).get(place, 0)
    assert total == {}


@pytest.mark.parametrize(
    "strange",
    [
        None,
        [],
        "x",
        {"a": float("nan")},
        {"a": True},
        {"a": 10**400},
        {"a": [1]},
        {"a": {"b": "c"}},
    ],
)
def test_values_that_are_no_numbers_are_left_out_of_a_sum(strange):
    usage = encodable(strange)
    assert add_usage(usage or {}, {"n": 1}) == {"n": 1}


def test_usage_that_no_event_can_hold_is_left_out():
    deep = value = {}
    for _ in range(2000):
        value["a"] = value = {}
    for strange in ({"a": object()}, {"a": "\ud800"}, deep, "text", [1]):
        assert encodable(strange) is None
    assert encodable({"a": "\ud800", "n": 1, "d": {"n": 2, "b": object()}}) == {
        "n": 1,
        "d": {"n": 2},
    }
    assert usage_fields(1, {"a": 1}, {}) == {"usage": {"a": 1}, "usage_total": None}
    assert usage_fields(2, None, {"a": 1}) == {"usage": None, "usage_total": {"a": 1}}
