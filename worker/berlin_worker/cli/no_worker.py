"""The hint for a user who waits while no worker runs."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from redis.exceptions import RedisError

from berlin_schemas import names
from berlin_worker.cli.output import say
from berlin_worker.cli.preflight import load_settings
from berlin_worker.storage import connections

PATIENCE_S: Final = 5.0
"""How long nothing may happen before workers are counted."""
NO_WORKER: Final = "no worker has announced itself; start one with `berlin worker`"
_LATE: Final = "nothing has come yet: the job waits for a worker"
_SOME: Final = "nothing has come yet: the job waits for one of {} workers (`berlin top` shows them)"
_UNKNOWN: Final = f"{_LATE} (`berlin doctor` counts them)"


def hint(workers: int | None) -> str:
    """Return what to say; ``None``: workers cannot be counted (pure)."""
    if workers is None:
        return _UNKNOWN
    return _SOME.format(workers) if workers else f"{_LATE}, and {NO_WORKER}"


async def count_workers() -> int | None:
    """Count the workers that have announced themselves; ``None`` if Redis does not say."""
    redis = connections.commands(load_settings().redis_url)
    try:
        async with asyncio.timeout(PATIENCE_S):
            seconds, micros = await redis.time()
            now_ms = seconds * 1000 + micros // 1000
            count: Any = await redis.zcount(names.FLEET, now_ms, "+inf")
            return int(count)
    except (RedisError, OSError):  # TimeoutError is one
        return None
    finally:
        await redis.aclose()


async def say_once(progress: Callable[[], object]) -> None:
    """Say that no worker runs, once, if ``progress`` stays as it is for ``PATIENCE_S``."""
    while True:
        before = progress()
        await asyncio.sleep(PATIENCE_S)
        if progress() == before and await count_workers() == 0:
            say(NO_WORKER)
            return


async def say_if_late() -> None:
    """Say after ``PATIENCE_S`` why nothing comes. Cancel it when something does."""
    await asyncio.sleep(PATIENCE_S)
    say(hint(await count_workers()))
