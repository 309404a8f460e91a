"""A watchdog beside cancellations, outer and inner timeouts, and errors of its block."""

import asyncio
import contextlib

import pytest

from berlin_worker.jobs.watchdog import Expired
from tests.support.fake_clock import run, watchdog

pytestmark = pytest.mark.unit


def guarded_sleep(dog):
    async def guarded():
        async with dog:
            await asyncio.sleep(100)

    return asyncio.create_task(guarded())


def test_outer_cancellation_at_the_moment_of_a_timeout_wins():
    async def main(loop):
        dog = watchdog()
        task = guarded_sleep(dog)
        await asyncio.sleep(0)
        loop.call_at(10.0, task.cancel)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert dog.expired is Expired.FIRST_CHUNK
        assert loop.now == pytest.approx(10.0)
        assert task.cancelled()

    run(main)


def test_outer_cancellation_stays_a_cancellation():
    async def main(loop):
        dog = watchdog()
        task = guarded_sleep(dog)
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert dog.expired is None

    run(main)


@pytest.mark.parametrize("answer", ["returns", "raises"])
def test_block_that_swallows_an_outer_cancellation_is_cancelled(answer):
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
def test_block_that_swallows_a_timeout_has_timed_out(answer):
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


def test_error_of_the_block_comes_through_as_it_is():
    async def main(loop):
        with pytest.raises(KeyError):
            async with watchdog():
                raise KeyError

    run(main)


def test_outer_timeout_that_passes_first_is_the_one_that_expires():
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


def test_watchdog_expires_before_a_later_outer_timeout():
    async def main(loop):
        dog = watchdog()
        async with asyncio.timeout(50) as outer:
            with pytest.raises(TimeoutError):
                async with dog:
                    await asyncio.sleep(100)
        assert dog.expired is Expired.FIRST_CHUNK
        assert not outer.expired()

    run(main)


def test_inner_timeout_of_the_block_does_not_expire_the_watchdog():
    async def main(loop):
        dog = watchdog()
        async with dog:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await asyncio.sleep(100)
            await asyncio.sleep(1)
        assert dog.expired is None

    run(main)
