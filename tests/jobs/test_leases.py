"""Renewal of the leases that this worker holds."""

import asyncio
import contextlib

import pytest

from tests.support.lease_fakes import FakeHolder
from tests.support.waiting import until

pytestmark = pytest.mark.unit


async def test_whoever_has_given_way_while_the_renewal_was_under_way_is_not_told(leases, store):
    old, new = FakeHolder(1), FakeHolder(2)

    async def renew(held, *, index):
        hold.__exit__(None, None, None)
        leases.holding("job-1", new).__enter__()
        return ["lost"]

    store.renew = renew
    hold = leases.holding("job-1", old)
    hold.__enter__()
    await leases._renew_all()
    assert old.received == new.received == []


async def test_holders_learn_that_their_job_is_lost_or_cancelled(leases, store, renewing):
    fine, lost, unwanted = FakeHolder(), FakeHolder(), FakeHolder(3)
    store.replies = {"lost": "lost", "unwanted": "requested"}
    with (
        leases.holding("fine", fine),
        leases.holding("lost", lost),
        leases.holding("unwanted", unwanted),
    ):
        await until(lambda: lost.received and unwanted.received)
    assert lost.received[0] == "lost"
    assert unwanted.received[0] == "requested"
    assert fine.received == []
    assert [("fine", 1), ("lost", 1), ("unwanted", 3)] in store.renewals


async def test_nothing_held_is_nothing_sent(leases, store):
    await leases._renew_all()
    assert store.renewals == []


async def test_very_many_leases_are_renewed_in_calls_of_bounded_size(leases, store):
    with contextlib.ExitStack() as stack:
        for n in range(1201):
            stack.enter_context(leases.holding(f"job-{n}", FakeHolder()))
        await leases._renew_all()
    assert [len(each) for each in store.renewals] == 12 * [100] + [1]


async def test_a_store_that_is_away_is_tried_again(leases, store, renewing):
    holder = FakeHolder()
    store.away = True
    with leases.holding("job-1", holder):
        await asyncio.sleep(0.01)
        store.away = False
        await until(lambda: store.renewals)


async def test_only_the_last_holder_of_a_job_lets_it_go(leases):
    first, second = FakeHolder(1), FakeHolder(2)
    with leases.holding("job-1", first):
        later = leases.holding("job-1", second)
        later.__enter__()
    assert leases.holder("job-1") is second
    later.__exit__(None, None, None)
    assert leases.holder("job-1") is None
    assert len(leases) == 0
