"""The timeouts of an attempt, on a clock that the test turns: nothing here sleeps for luck."""

import asyncio
import contextlib
import math
import selectors

import pytest

from berlin_worker.jobs.watchdog import Expired, Watchdog

pytestmark = pytest.mark.unit


class _NoWait(selectors.DefaultSelector):
    """Does not sleep: where the loop would wait for its next timer, its clock is set there."""

    loop: "FakeClockLoop"

    def select(self, timeout=None):
        if timeout:
            self.loop.now += timeout
        return super().select(0)


class FakeClockLoop(asyncio.SelectorEventLoop):
    """An event loop in which time passes only where everything waits for a timer."""

    def __init__(self):
        selector = _NoWait()
        selector.loop = self
        super().__init__(selector)
        self.now = 0.0
        self.timers_set = 0

    def time(self):
        return getattr(self, "now", 0.0)

    def call_at(self, when, callback, *args, context=None):
        self.timers_set += 1
        return super().call_at(when, callback, *args, context=context)


def run(main):
    """Run ``main(loop)`` on a fake clock that stands at 0."""
    with asyncio.Runner(loop_factory=FakeClockLoop) as runner:
        return runner.run(main(runner.get_loop()))


def watchdog(*, deadline=math.inf, first_chunk_s=10.0, idle_s=3.0):
    return Watchdog(deadline=min(deadline, 1e9), first_chunk_s=first_chunk_s, idle_s=idle_s)


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


def test_an_idle_timeout_longer_than_the_first_chunk_timeout_is_kept():
    async def main(loop):
        dog = watchdog(first_chunk_s=2, idle_s=30)
        async with dog:
            await asyncio.sleep(1)
            dog.saw_chunk()
            await asyncio.sleep(29)
        assert dog.expired is None

    run(main)


def test_the_deadline_ends_a_stream_that_never_idles():
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


def test_a_deadline_that_has_passed_already_ends_the_block_at_its_first_wait():
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


def test_a_pause_stops_the_idle_timeout_and_resuming_starts_it_anew():
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


def test_a_pause_does_not_stop_the_deadline():
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


def test_the_first_chunk_sets_no_timer_either_unless_its_own_is_due_too_late():
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


def test_a_block_that_ends_in_time_leaves_no_timer_behind():
    async def main(loop):
        async with watchdog() as dog:
            dog.saw_chunk()
            await asyncio.sleep(1)
        await asyncio.sleep(1000)
        assert dog.expired is None

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


def test_signs_of_life_put_off_the_idle_timeout_and_only_that():
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
