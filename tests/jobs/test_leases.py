"""Renewal of the leases that this worker holds."""

import asyncio
import contextlib

import pytest

from tests.support.lease_fakes import FakeHolder
from tests.support.waiting import until

pytestmark = pytest.mark.unit


async def test_holder_replaced_during_the_renewal_receives_no_loss(leases, store):
    old, new = FakeHolder("w/1"), FakeHolder("w/2")

    async def renew(held, *, index):
        hold.__exit__(None, None, None)
        leases.holding("job-1", new).__enter__()
        return ["lost"]

    store.renew = renew
    hold = leases.holding("job-1", old)
    hold.__enter__()
    await leases._renew_all()
    assert old.received == new.received == []


async def test_holders_receive_the_loss_or_cancellation_of_their_job(leases, store, renewing):
    fine, lost, unwanted = FakeHolder(), FakeHolder(), FakeHolder("w/3")
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
    assert [("fine", "w/1"), ("lost", "w/1"), ("unwanted", "w/3")] in store.renewals


async def test_renewal_without_leases_calls_no_store(leases, store):
    await leases._renew_all()
    assert store.renewals == []


async def test_many_leases_are_renewed_in_calls_of_bounded_size(leases, store):
    with contextlib.ExitStack() as stack:
        for n in range(1201):
            stack.enter_context(leases.holding(f"job-{n}", FakeHolder()))
        await leases._renew_all()
    assert [len(each) for each in store.renewals] == 12 * [100] + [1]


async def test_renewal_is_retried_while_the_store_is_unavailable(leases, store, renewing):
    holder = FakeHolder()
    store.away = True
    with leases.holding("job-1", holder):
        await asyncio.sleep(0.01)
        store.away = False
        await until(lambda: store.renewals)


async def test_only_the_last_holder_of_a_job_removes_its_lease(leases):
    first, second = FakeHolder("w/1"), FakeHolder("w/2")
    with leases.holding("job-1", first):
        later = leases.holding("job-1", second)
        later.__enter__()
    assert leases.holder("job-1") is second
    later.__exit__(None, None, None)
    assert leases.holder("job-1") is None
    assert len(leases) == 0
