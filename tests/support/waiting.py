"""Wait for a condition on the event loop, in place of a sleep that may be too short."""

import asyncio
from collections.abc import Callable


async def until(condition: Callable[[], object], timeout_s: float = 60.0) -> None:
    """Return as soon as ``condition`` is true; raises ``TimeoutError`` if it never is."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110  # any condition: there is no event to wait for
            await asyncio.sleep(0.001)


async def stopped(task: asyncio.Task[None]) -> None:
    """Cancel a task until it has ended; ``berlin_worker.service`` has why once may not do."""
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=1.0)
