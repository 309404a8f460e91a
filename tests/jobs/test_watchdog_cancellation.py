"""A watchdog beside cancellations, outer and inner timeouts, and errors of its block."""

import asyncio
import contextlib

import pytest

from berlin_worker.jobs.watchdog import Expired
from tests.support.fake_clock import run, watchdog

pytestmark = pytest.mark.unit


def test_a_cancellation_from_outside_at_the_very_moment_of_a_timeout_wins():
    async def main(loop):
        dog = watchdog()

        async def guarded():
            async with dog:
                await asyncio.sleep(100)

        task = asyncio.create_task(guarded())
        await asyncio.sleep(0)
        loop.call_at(10.0, task.cancel)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert dog.expired is Expired.FIRST_CHUNK
        assert loop.now == pytest.approx(10.0)
        assert task.cancelled()

    run(main)


def test_a_cancellation_from_outside_stays_one():
    async def main(loop):
        dog = watchdog()

        async def guarded():
            async with dog:
                await asyncio.sleep(100)

        task = asyncio.create_task(guarded())
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert dog.expired is None

    run(main)


@pytest.mark.parametrize("answer", ["returns", "raises"])
def test_a_block_that_swallows_a_cancellation_from_outside_is_cancelled_all_the_same(answer):
    async def main(loop):
        async def guarded():
            async with watchdog():
                try:
                    await asyncio.sleep(5)
                except asyncio.CancelledError:
                    if answer == "raises":
                        raise ValueError from None

        task = asyncio.create_task(guarded())
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main)


@pytest.mark.parametrize("answer", ["returns", "raises"])
def test_a_block_that_swallows_a_timeout_has_timed_out_all_the_same(answer):
    async def main(loop):
        async def block():
            async with watchdog():
                try:
                    await asyncio.sleep(100)
                except asyncio.CancelledError:
                    if answer == "raises":
                        raise ValueError from None

        with pytest.raises(TimeoutError):
            await block()
        assert asyncio.current_task().cancelling() == 0

    run(main)


def test_an_error_of_the_block_comes_through_as_it_is():
    async def main(loop):
        with pytest.raises(KeyError):
            async with watchdog():
                raise KeyError

    run(main)


def test_inside_an_outer_timeout_that_passes_first_the_outer_one_is_told():
    async def main(loop):
        dog = watchdog()

        outer = asyncio.timeout(5)

        async def block():
            async with outer, dog:
                await asyncio.sleep(100)

        with pytest.raises(TimeoutError):
            await block()
        assert outer.expired()
        assert dog.expired is None

    run(main)


def test_inside_an_outer_timeout_that_passes_later_the_watchdog_is_told():
    async def main(loop):
        dog = watchdog()
        async with asyncio.timeout(50) as outer:
            with pytest.raises(TimeoutError):
                async with dog:
                    await asyncio.sleep(100)
        assert dog.expired is Expired.FIRST_CHUNK
        assert not outer.expired()

    run(main)


def test_an_inner_timeout_of_the_block_is_not_taken_for_the_watchdogs():
    async def main(loop):
        dog = watchdog()
        async with dog:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await asyncio.sleep(100)
            await asyncio.sleep(1)
        assert dog.expired is None

    run(main)
