"""An event loop whose clock jumps to the next timer, and a watchdog to run on it."""

import asyncio
import math
import selectors

from berlin_worker.jobs.watchdog import Watchdog


class _NoWait(selectors.DefaultSelector):
    """Does not sleep: instead of a wait for the next timer, it moves the clock of the loop."""

    loop: "FakeClockLoop"

    def select(self, timeout=None):
        if timeout:
            self.loop.now += timeout
        return super().select(0)


class FakeClockLoop(asyncio.SelectorEventLoop):
    """An event loop in which time passes only while everything waits for a timer."""

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
