"""Single-flight: callers that arrive during a run share it."""

import asyncio

import pytest

from berlin_worker.providers.tokens.singleflight import SingleFlight

pytestmark = pytest.mark.unit


class Work:
    """Runs until ``gate`` opens; counts its runs and records how each ended."""

    def __init__(self) -> None:
        self.runs = 0
        self.ended: list[str] = []
        self.gate = asyncio.Event()
        self.started = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self) -> int:
        self.runs += 1
        run = self.runs
        self.started.set()
        try:
            await self.gate.wait()
            if self.error:
                raise self.error
        except asyncio.CancelledError:
            await asyncio.sleep(0)  # a clean-up that needs the loop
            self.ended.append("cancelled")
            raise
        self.ended.append("done")
        return run


async def start(flight: SingleFlight[int], work: Work, callers: int) -> list[asyncio.Task[int]]:
    tasks = [asyncio.create_task(flight()) for _ in range(callers)]
    await work.started.wait()
    return tasks


async def test_callers_share_a_run_and_the_next_one_begins_another() -> None:
    work = Work()
    flight = SingleFlight(work)
    callers = await start(flight, work, 10)
    work.gate.set()
    assert await asyncio.gather(*callers) == [1] * 10
    assert await flight() == 2


async def test_callers_share_an_error() -> None:
    work = Work()
    work.error = ValueError("failed")
    flight = SingleFlight(work)
    callers = await start(flight, work, 3)
    work.gate.set()
    outcomes = await asyncio.gather(*callers, return_exceptions=True)
    assert outcomes == [work.error] * 3
    assert work.runs == 1


async def test_cancelled_caller_leaves_the_run_to_the_others() -> None:
    work = Work()
    flight = SingleFlight(work)
    first, second, third = await start(flight, work, 3)
    first.cancel()
    second.cancel()
    await asyncio.wait({first, second})
    work.gate.set()
    assert await third == 1
    assert work.ended == ["done"]


async def test_last_caller_to_be_cancelled_waits_for_the_clean_up() -> None:
    work = Work()
    flight = SingleFlight(work)
    callers = await start(flight, work, 3)
    for caller in callers:
        caller.cancel()
    await asyncio.wait(callers)
    assert work.ended == ["cancelled"]


async def test_caller_does_not_join_a_run_that_is_being_cancelled() -> None:
    work = Work()
    flight = SingleFlight(work)
    [last] = await start(flight, work, 1)
    last.cancel()
    await asyncio.sleep(0)  # the run is cancelled, and has not ended yet
    assert work.ended == []
    late = asyncio.create_task(flight())
    work.gate.set()
    assert await late == 2
    with pytest.raises(asyncio.CancelledError):
        await last
