"""Marks on the event stores, by which a service with another list of shards is refused at once.

A service that has the shards in another order, or another number of them, would look for jobs
on the wrong shard. So workers write two kinds of marks:

- ``worker:shard`` on each shard: its place, from 0, and the number of all shards (``1/3``);
- ``worker:shards`` on ``REDIS_URL``: the number of all shards.

Marks expire ``MARK_TTL_S`` after the last worker has stopped; then the list may be changed. If
``REDIS_URL`` is the only event store, workers write no mark, but refuse one that exists.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, RedisError, ResponseError

from berlin_schemas import names
from berlin_worker.errors import SettingsError

logger = logging.getLogger(__name__)

MARK_TTL_S: Final = 30
_INTERVAL_S: Final = 10.0
_PATIENCE_S: Final = 5.0


def on_shard(place: int, count: int) -> str:
    """Return the mark of a shard."""
    return f"{place}/{count}"


def trouble(expected: str | None, found: str | None, at: str) -> str | None:
    """Return what is wrong with the mark ``found`` at the address ``at``, or ``None`` (pure).

    A mark that is ``None`` does not exist; a missing mark is no error. The mark of a shard has a
    slash, that of ``REDIS_URL`` has none.
    """
    if found is None or found == expected or not _is_mark(found):
        return None
    place, slash, count = found.rpartition("/")
    if expected is None:
        return (
            f"the jobs of Redis at {at} are spread over {count} event stores: set "
            "WORKER_EVENT_SHARDS as its workers do"
        )
    if not slash or count != expected.rpartition("/")[2]:
        return (
            f"Redis at {at} is marked for {count} event stores, and WORKER_EVENT_SHARDS names "
            f"{expected.rpartition('/')[2]}: the list must be the same everywhere, and is changed "
            f"while no worker has run for {MARK_TTL_S} s"
        )
    return (
        f"Redis at {at} is event store {int(place) + 1} of {count}, and WORKER_EVENT_SHARDS has it "
        f"as number {int(expected.partition('/')[0]) + 1}: the order must be the same everywhere, "
        "and none may stand there twice"
    )


def _is_mark(found: str) -> bool:
    """Return whether a worker can have written ``found``; a worker replaces anything else."""
    return re.fullmatch(r"[0-9]{1,6}(/[0-9]{1,6})?", found) is not None


async def check(
    get: Callable[[str], Awaitable[Any]], key: str, expected: str | None, at: str
) -> None:
    """Raise ``SettingsError`` if the mark in ``key`` differs from ``expected``.

    If an ACL denies the caller the key, or the key holds no mark, nothing is checked. Other errors
    of ``get`` are raised.
    """
    try:
        found = await get(key)
    except NoPermissionError:
        return
    except ResponseError as error:
        if str(error).startswith("WRONGTYPE"):
            return
        raise
    text = found.decode(errors="replace") if found is not None else None
    if problem := trouble(expected, text, at):
        raise SettingsError(problem)


class Marks:
    """The marks of one worker on ``control_redis`` and on each of ``shards``: (client, address)."""

    def __init__(
        self, control_redis: tuple[Redis, str], shards: Sequence[tuple[Redis, str]]
    ) -> None:
        count = len(shards)
        self.interval_s = _INTERVAL_S
        self._marks = [(*control_redis, names.SHARDS, str(count))]
        for place, shard in enumerate(shards):
            self._marks.append((*shard, names.SHARD, on_shard(place, count)))

    async def write(self) -> None:
        """Write or renew all marks; raise ``SettingsError`` if a shard has a different mark.

        A server that does not answer is marked by a later call.
        """
        outcomes = await asyncio.gather(
            *(self._write(*mark) for mark in self._marks), return_exceptions=True
        )
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    async def write_forever(self) -> None:
        """Renew the marks until cancelled.

        A mark that has changed is logged and kept: it stops workers that start, and must not end
        workers that run.
        """
        while True:
            await asyncio.sleep(self.interval_s)
            try:
                await self.write()
            except SettingsError as error:
                logger.error("the marks of the event stores have changed: %s", error)  # noqa: TRY400  # one line says all

    async def _write(self, client: Redis, at: str, key: str, mark: str) -> None:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                if not await client.set(key, mark, nx=True, ex=MARK_TTL_S):
                    await check(client.get, key, mark, at)
                    # The key holds this mark, or garbage of any type: SET replaces both.
                    await client.set(key, mark, ex=MARK_TTL_S)
        except (RedisError, OSError) as error:  # TimeoutError is an OSError
            logger.warning("Redis at %s cannot be marked: %s", at, error or "no answer")


async def check_unmarked(client: Redis, at: str) -> None:
    """Raise ``SettingsError`` if the only event store has the mark of one of several."""
    try:
        async with asyncio.timeout(_PATIENCE_S):
            await check(client.get, names.SHARDS, None, at)
            await check(client.get, names.SHARD, None, at)
    except (RedisError, OSError) as error:
        logger.warning("Redis at %s cannot be asked: %s", at, error or "no answer")
