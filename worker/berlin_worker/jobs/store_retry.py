"""A job waits for the store of jobs, it does not fail for it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

logger = logging.getLogger(__name__)
T = TypeVar("T")

_RETRY_S: Final = 0.5


async def retry_until_available(call: Callable[[], Awaitable[T]]) -> T:
    """Call until the store answers; it says by ``ConnectionError`` that it does not."""
    while True:
        try:
            return await call()
        except ConnectionError as error:
            logger.warning("the job store does not answer, jobs wait: %s", error)
            await asyncio.sleep(_RETRY_S)
