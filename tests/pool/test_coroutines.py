"""How a coroutine is driven: results, errors, cancellations and the soft limit."""

import asyncio

import pytest
from celery.exceptions import SoftTimeLimitExceeded

from berlin_worker.pool.coroutines import SoftLimit, interruptible

pytestmark = pytest.mark.unit


class Task:
    """A coroutine that notes what reaches it."""

    def __init__(self):
        self.seen = []

    async def run(self, steps=1):
        for _ in range(steps):
            try:
                await asyncio.sleep(0)
            except BaseException as raised:
                self.seen.append(type(raised))
                if isinstance(raised, asyncio.CancelledError | GeneratorExit):
                    raise
        return "done"


def test_result_is_that_of_the_coroutine():
    with asyncio.Runner() as runner:

        async def work():
            return await interruptible(Task().run(3), lambda: None)

        assert runner.run(work()) == "done"


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(None, asyncio.CancelledError), (SoftLimit(5), SoftTimeLimitExceeded)],
)
def test_cancellation_reaches_the_coroutine_as_itself_or_as_the_limit(limit, expected):
    task = Task()
    driven = interruptible(task.run(), lambda: limit)
    driven.send(None)
    with pytest.raises(expected) as raised:
        driven.throw(asyncio.CancelledError())
    assert type(raised.value) is expected
    assert task.seen == [SoftLimit if limit else asyncio.CancelledError]


def test_error_of_the_event_loop_is_for_the_coroutine_to_handle():
    task = Task()
    driven = interruptible(task.run(2), lambda: None)
    driven.send(None)
    driven.throw(RuntimeError("of a callback"))
    with pytest.raises(StopIteration, match="done"):
        driven.send(None)
    assert task.seen == [RuntimeError]


def test_closing_closes_the_coroutine():
    task = Task()
    driven = interruptible(task.run(), lambda: None)
    driven.send(None)
    driven.close()
    assert task.seen == [GeneratorExit]
