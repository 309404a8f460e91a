"""Calls of the job store that wait while it is away, so that no job fails for it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

logger = logging.getLogger(__name__)
T = TypeVar("T")

_RETRY_S: Final = 0.5


async def retry_until_available(call: Callable[[], Awaitable[T]]) -> T:
    """Repeat ``call`` while it raises ``ConnectionError``; returns its result."""
    while True:
        try:
            return await call()
        except ConnectionError as error:
            logger.warning("the job store does not answer, jobs wait: %s", error)
            await asyncio.sleep(_RETRY_S)
