"""The timeouts of an attempt on a fake clock."""

import asyncio
import math

import pytest

from berlin_worker.jobs.watchdog import Expired
from tests.support.fake_clock import run, watchdog

pytestmark = pytest.mark.unit


def test_first_chunk_timeout_counts_from_the_start():
    async def main(loop):
        dog = watchdog()

        async def block():
            async with dog:
                await asyncio.sleep(100)

        with pytest.raises(TimeoutError):
            await block()
        assert dog.expired is Expired.FIRST_CHUNK
        assert loop.now == pytest.approx(10.0)
        assert asyncio.current_task().cancelling() == 0

    run(main)


def test_after_the_first_chunk_only_the_idle_timeout_counts():
    async def main(loop):
        dog = watchdog()

        async def block():
            async with dog:
                for _ in range(20):
                    await asyncio.sleep(2.5)
                    dog.saw_chunk()
                await asyncio.sleep(100)

        with pytest.raises(TimeoutError):
            await block()
        assert dog.expired is Expired.IDLE
        assert loop.now == pytest.approx(53.0)

    run(main)


def test_idle_timeout_longer_than_the_first_chunk_timeout_is_kept():
    async def main(loop):
        dog = watchdog(first_chunk_s=2, idle_s=30)
        async with dog:
            await asyncio.sleep(1)
            dog.saw_chunk()
            await asyncio.sleep(29)
        assert dog.expired is None

    run(main)


def test_deadline_ends_a_stream_that_never_idles():
    async def main(loop):
        dog = watchdog(deadline=7.2)

        async def block():
            async with dog:
                while True:
                    await asyncio.sleep(0.5)
                    dog.saw_chunk()

        with pytest.raises(TimeoutError):
            await block()
        assert dog.expired is Expired.DEADLINE
        assert loop.now == pytest.approx(7.2)

    run(main)


def test_deadline_that_has_passed_already_ends_the_block_at_its_first_wait():
    async def main(loop):
        dog = watchdog(deadline=-1.0)

        async def block():
            async with dog:
                await asyncio.sleep(100)

        with pytest.raises(TimeoutError):
            await block()
        assert dog.expired is Expired.DEADLINE
        assert loop.now == 0

    run(main)


def test_pause_stops_the_idle_timeout_and_resuming_starts_it_anew():
    async def main(loop):
        dog = watchdog()

        async def block():
            async with dog:
                dog.saw_chunk()
                dog.pause()
                await asyncio.sleep(50)
                dog.resume()
                await asyncio.sleep(2.9)
                dog.saw_chunk()
                await asyncio.sleep(100)

        with pytest.raises(TimeoutError):
            await block()
        assert dog.expired is Expired.IDLE
        assert loop.now == pytest.approx(55.9)

    run(main)


def test_pause_does_not_stop_the_deadline():
    async def main(loop):
        dog = watchdog(deadline=20)

        async def block():
            async with dog:
                dog.saw_chunk()
                dog.pause()
                await asyncio.sleep(100)

        with pytest.raises(TimeoutError):
            await block()
        assert dog.expired is Expired.DEADLINE
        assert loop.now == pytest.approx(20)

    run(main)


def test_chunks_set_no_timers():
    async def main(loop):
        async with watchdog(idle_s=10, first_chunk_s=100) as dog:
            dog.saw_chunk()
            before = loop.timers_set
            for _ in range(10_000):
                dog.saw_chunk()
            assert loop.timers_set == before
            for _ in range(100):
                await asyncio.sleep(1)
                dog.saw_chunk()
            set_by_the_test = 100
            assert loop.timers_set - before - set_by_the_test <= 100 / 10 + 2

    run(main)


def test_first_chunk_sets_no_timer_either_unless_its_own_is_due_too_late():
    async def main(loop):
        async with watchdog(first_chunk_s=60, idle_s=30) as dog:
            before = loop.timers_set
            dog.saw_chunk()
            assert loop.timers_set == before
        # An idle timeout of milliseconds is no reason to look every few milliseconds.
        async with watchdog(first_chunk_s=60, idle_s=0.01) as dog:
            before = loop.timers_set
            await asyncio.sleep(50.5)
            assert loop.timers_set - before - 1 == 50
            dog.saw_chunk()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.sleep(100)
            assert loop.now == pytest.approx(50.51)
            raise TimeoutError  # as the block would end

    with pytest.raises(TimeoutError):
        run(main)


def test_block_that_ends_in_time_leaves_no_timer_behind():
    async def main(loop):
        async with watchdog() as dog:
            dog.saw_chunk()
            await asyncio.sleep(1)
        await asyncio.sleep(1000)
        assert dog.expired is None

    run(main)


def test_keep_alives_postpone_the_idle_timeout_alone():
    async def main(loop):
        async def read(dog, *, chunk, signs):
            async with dog:
                if chunk:
                    dog.saw_chunk()
                for _ in range(signs):
                    await asyncio.sleep(2)
                    dog.saw_life()
                await asyncio.sleep(1000)

        for chunk, deadline, signs, expired, at in [
            (True, math.inf, 10, Expired.IDLE, 23.0),
            (True, math.inf, 0, Expired.IDLE, 3.0),
            (True, 9.0, 10, Expired.DEADLINE, 9.0),
            (False, math.inf, 10, Expired.FIRST_CHUNK, 10.0),
        ]:
            begun = loop.now
            dog = watchdog(deadline=begun + deadline)
            with pytest.raises(TimeoutError):
                await read(dog, chunk=chunk, signs=signs)
            assert dog.expired is expired
            assert loop.now - begun == pytest.approx(at)

    run(main)
