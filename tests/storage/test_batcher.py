"""A batcher answers each caller once, whichever caller, batch or worker fails."""

import asyncio

import pytest

from berlin_worker.storage.batcher import Batcher

pytestmark = pytest.mark.unit


class Doubler:
    """Doubles numbers; for 13 that caller gets an error, and 99 fails the whole batch."""

    def __init__(self):
        self.batches = []
        self.go = asyncio.Event()
        self.cancelled = 0

    async def work(self, items):
        self.batches.append(items)
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if 99 in items:
            raise OSError("all of it")
        return [ValueError("13") if item == 13 else 2 * item for item in items]


def ask(batcher, *items):
    return [asyncio.create_task(batcher.ask(item)) for item in items]


async def test_items_that_gather_go_together_and_errors_reach_their_caller_alone():
    doubler = Doubler()
    batcher = Batcher(doubler.work, at_most=3)
    first = ask(batcher, 1)
    await asyncio.sleep(0.01)
    rest = ask(batcher, 2, 13, 3, 4)
    doubler.go.set()
    outcomes = await asyncio.gather(*first, *rest, return_exceptions=True)
    assert [*outcomes[:2], *outcomes[3:]] == [2, 4, 6, 8]
    assert isinstance(outcomes[2], ValueError)
    assert doubler.batches == [[1], [2, 13, 3], [4]]


async def test_failed_batch_raises_for_its_callers_and_not_for_the_next():
    doubler = Doubler()
    doubler.go.set()
    batcher = Batcher(doubler.work, at_most=2)
    outcomes = await asyncio.gather(*ask(batcher, 99, 1, 2), return_exceptions=True)
    assert [type(each) for each in outcomes] == [OSError, OSError, int]


@pytest.mark.parametrize("cancel_unwanted", [True, False])
async def test_batch_without_callers_is_cancelled_only_on_request(cancel_unwanted):
    doubler = Doubler()
    batcher = Batcher(doubler.work, at_most=3, cancel_unwanted=cancel_unwanted)
    callers = ask(batcher, 1, 2)
    await asyncio.sleep(0.01)
    for caller in callers:
        caller.cancel()
    await asyncio.wait(callers)
    later = ask(batcher, 5)
    doubler.go.set()
    assert await asyncio.gather(*later) == [10]
    assert doubler.cancelled == cancel_unwanted


async def test_callers_of_a_closed_batcher_get_its_error():
    doubler = Doubler()
    batcher = Batcher(doubler.work, at_most=1, closed=lambda: KeyError("closed"))
    callers = ask(batcher, 1, 2)
    await asyncio.sleep(0.01)
    await batcher.aclose()
    outcomes = await asyncio.gather(*callers, *ask(batcher, 3), return_exceptions=True)
    assert [type(each) for each in outcomes] == [KeyError] * 3
    await batcher.aclose()
