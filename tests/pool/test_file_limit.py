"""Slots and the limit of open files: the decision alone, without a process."""

import resource

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berlin_worker.pool.file_limit import USUAL_LIMIT, Room, plan

pytestmark = pytest.mark.unit

INFINITE = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("slots", "soft", "hard", "expected"),
    [
        (1000, 1024, 1024, Room(None, 840)),  # the hard case: nothing can be raised
        (1000, 1024, 8192, Room(8192, 1000)),
        (1000, 1024, INFINITE, Room(USUAL_LIMIT, 1000)),
        (1000, INFINITE, INFINITE, Room(None, 1000)),
        (1000, USUAL_LIMIT, USUAL_LIMIT, Room(None, 1000)),
        (100_000, 1024, INFINITE, Room(110_100, 100_000)),
        (1000, 512, 600, Room(600, 454)),
        (10, 64, 64, Room(None, 1)),
    ],
)
def test_plan_raises_the_limit_or_lowers_the_slots(slots, soft, hard, expected):
    assert plan(slots, soft, hard, base=100, files=1) == expected


@given(
    slots=st.integers(1, 200_000),
    soft=st.integers(0, 300_000),
    more=st.one_of(st.none(), st.integers(0, 300_000)),
    files=st.integers(1, 2),
)
def test_planned_slots_fit_the_planned_limit(slots, soft, more, files):
    hard = INFINITE if more is None else soft + more
    room = plan(slots, soft, hard, base=128, files=files)
    limit = room.soft_limit or soft
    assert 1 <= room.slots <= slots
    assert room.soft_limit is None or soft < limit
    assert hard == INFINITE or limit <= hard
    if room.slots > 1:
        assert 128 + room.slots * files + room.slots // 10 <= limit
    if room.slots < slots:  # one slot more would not fit
        one_more = room.slots + 1
        assert limit == hard
        assert 128 + one_more * files + one_more / 10 > limit
