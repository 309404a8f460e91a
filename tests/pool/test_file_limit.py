"""Slots and the limit of open files: the decision alone, without a process."""

import resource
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berlin_worker.pool import file_limit
from berlin_worker.pool.file_limit import USUAL_LIMIT, FileLimit, Room, install, plan

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


@pytest.fixture
def limits(monkeypatch):
    """Soft and hard limit of a process; ``most`` is a lower limit that the system does not name."""
    limits = SimpleNamespace(soft=1024, hard=INFINITE, most=INFINITE)

    def setrlimit(_, wanted):
        if limits.most != INFINITE and wanted[0] > limits.most:
            raise ValueError("not allowed to raise maximum limit")
        limits.soft, limits.hard = wanted

    monkeypatch.setattr(resource, "getrlimit", lambda _: (limits.soft, limits.hard))
    monkeypatch.setattr(resource, "setrlimit", setrlimit)
    return limits


def test_limit_is_raised_for_the_slots(limits):
    assert FileLimit(proxies=0).make_room(2_000) == 2_000
    assert limits.soft >= 2_000


def test_slots_are_reduced_if_the_system_refuses_more_files(limits):
    limits.most = 1024
    allowed = FileLimit(proxies=3).make_room(2_000)
    assert 0 < allowed < 2_000
    warning = FileLimit(proxies=3).warning(2_000, allowed)
    assert f"{allowed} streams at once in place of 2000: the limit is 1024 open files" in warning


def test_growing_pool_stops_at_the_files(limits, monkeypatch, caplog):
    connected, grown, app = {}, [], object()
    for name in ("worker_init", "celeryd_after_setup"):
        connect = {"connect": lambda handler, weak, name=name: connected.update({name: handler})}
        monkeypatch.setattr(file_limit.signals, name, SimpleNamespace(**connect))
    monkeypatch.setitem(file_limit.Panel.data, "pool_grow", lambda state, n: grown.append(n))
    install(app, FileLimit(proxies=0))
    limits.hard = 1024

    worker = SimpleNamespace(app=app, concurrency=5_000)
    connected["worker_init"](worker)
    assert 0 < worker.concurrency < 1024
    other = SimpleNamespace(app=object(), concurrency=5_000)
    connected["worker_init"](other)
    assert other.concurrency == 5_000
    connected["celeryd_after_setup"]()
    assert caplog.text.count("streams at once in place of 5000") == 1

    pool = SimpleNamespace(num_processes=worker.concurrency)
    state = SimpleNamespace(app=app, consumer=SimpleNamespace(pool=pool))
    grow = file_limit.Panel.data["pool_grow"]
    assert f"{worker.concurrency} streams at once" in grow(state, n=10)["ok"]
    pool.num_processes = 10
    grow(state, n=10)
    grow(state, n=-1)
    grow(SimpleNamespace(app=object()), n=7)
    assert grown == [0, 10, -1, 7]
