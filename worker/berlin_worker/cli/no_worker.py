"""The hint for a user who waits while no worker runs."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from redis.exceptions import RedisError

from berlin_schemas import names
from berlin_worker.cli.output import print_err
from berlin_worker.cli.preflight import load_settings
from berlin_worker.storage import connections

PATIENCE_S: Final = 5.0
"""Time without progress after which workers are counted."""
NO_WORKER: Final = "no worker is running; start one with `berlin worker`"
_LATE: Final = "nothing has come yet: the job waits for a worker"
_SOME: Final = "nothing has come yet: the job waits for one of {} workers (`berlin top` shows them)"
_UNKNOWN: Final = f"{_LATE} (`berlin doctor` counts them)"


def hint(workers: int | None) -> str:
    """Return the hint for a number of workers, ``None`` if it is unknown (pure)."""
    if workers is None:
        return _UNKNOWN
    return _SOME.format(workers) if workers else f"{_LATE}, and {NO_WORKER}"


async def count_workers() -> int | None:
    """Count the running workers. Return ``None`` if Redis does not answer, or refuses."""
    redis = connections.commands(load_settings().redis_url)
    try:
        async with asyncio.timeout(PATIENCE_S):
            seconds, micros = await redis.time()
            now_ms = seconds * 1000 + micros // 1000
            count: Any = await redis.zcount(names.FLEET, now_ms, "+inf")
            return int(count)
    except (RedisError, OSError):  # includes TimeoutError
        return None
    finally:
        await redis.aclose()


async def hint_once(progress: Callable[[], object]) -> None:
    """Print once that no worker runs, if ``progress`` does not change for ``PATIENCE_S``."""
    while True:
        before = progress()
        await asyncio.sleep(PATIENCE_S)
        if progress() == before and await count_workers() == 0:
            print_err(NO_WORKER)
            return


async def hint_if_late() -> None:
    """Print after ``PATIENCE_S`` why nothing comes. The caller cancels it at the first event."""
    await asyncio.sleep(PATIENCE_S)
    print_err(hint(await count_workers()))
