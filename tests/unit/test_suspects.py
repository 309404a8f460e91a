"""Suspects take turns; each turn ends with its job, or when it has lasted long enough."""

import asyncio
import contextlib

from tests.support.waiting import until
from worker.suspects import Suspects


async def test_they_run_one_at_a_time_and_in_order():
    suspects, ran = Suspects(60), []

    async def run(name):
        async with suspects.turn(name):
            ran.append(name)
            await asyncio.sleep(0)
            assert ran[-1] == name

    assert not suspects.busy
    await asyncio.gather(*map(run, "abc"))
    assert ran == ["a", "b", "c"]
    assert not suspects.busy


async def test_one_that_has_run_for_long_enough_lets_the_next_begin():
    suspects = Suspects(0.001)
    async with suspects.turn("a"), suspects.turn("b"):
        await until(lambda: not suspects.busy)
        async with suspects.turn("c"):
            pass
    assert not suspects.busy


async def test_between_two_turns_the_next_in_line_is_known_to_come():
    suspects = Suspects(60)
    first = suspects.turn("a")
    await first.__aenter__()
    second = asyncio.create_task(suspects.turn("b").__aenter__())
    await until(lambda: suspects.waiting)
    await first.__aexit__(None, None, None)
    assert suspects.busy
    await second
    assert suspects.busy


async def test_who_waits_is_known_and_may_give_up():
    suspects = Suspects(60)
    async with suspects.turn("a"):
        waiting = asyncio.create_task(suspects.turn("b").__aenter__())
        await until(lambda: suspects.waiting == {"b"})
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting
        assert suspects.waiting == set()
    assert not suspects.busy
