"""Cancelling: listen on the control channel (schemas/README.md, "Cancelling").

A message that is missed does no harm: the canceller has set a flag in the record,
which is seen when the job is claimed and whenever its lease is renewed.

The channel is one for all databases of a server, and so for all fleets on it. A message that
names a fleet (the number of its database) is for that one alone. A message that names none is
for the fleet whose record of the job has the flag.
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import redis.asyncio
from redis.exceptions import RedisError

from berlin_schemas import names

logger = logging.getLogger(__name__)

_RECONNECT_S = 0.5
_POLL_S = 5.0
_MAX_REASON = 200

_FLAG_TIMEOUT_S = 1.0

Cancel = Callable[[str, str], Awaitable[None]]
"""Called with a job ID and a reason."""
Flagged = Callable[[str], Awaitable[bool]]
"""Whether the record of a job has the flag of a cancellation."""


@dataclass(frozen=True, slots=True)
class Message:
    """A control message; ``fleet`` is the number of a database, or ``None``."""

    job_id: str
    reason: str
    fleet: int | None


def parse(data: object) -> Message | None:
    """The control message in ``data``; ``None`` for what is no such message."""
    if not isinstance(data, bytes):
        return None
    try:
        message = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(message, dict) or not names.is_job_id(message.get("cancel")):
        return None
    reason = message.get("reason")
    told = reason[:_MAX_REASON] if isinstance(reason, str) else ""
    fleet = message.get("fleet")
    if fleet is not None and type(fleet) is not int:
        return None
    return Message(message["cancel"], told or "requested", fleet)


def flags(store: Callable[[str], redis.asyncio.Redis]) -> Flagged:
    """Look for flags in the records; ``store`` returns the Redis that holds those of a job."""

    async def flagged(job_id: str) -> bool:
        try:
            async with asyncio.timeout(_FLAG_TIMEOUT_S):
                found: bool = await store(job_id).hexists(names.state_key(job_id), "cancel")
        except (RedisError, OSError):
            return False  # the next renewal of the lease finds the flag
        return found

    return flagged


async def listen(
    client: redis.asyncio.Redis,
    cancel: Cancel,
    *,
    fleet: int = 0,
    flagged: Flagged | None = None,
) -> None:
    """Call ``cancel`` for each message, until cancelled; a lost connection is made again.

    Messages of another fleet are skipped, and those that name none if the job is not ``flagged``.
    """
    while True:
        try:
            async with client.pubsub(ignore_subscribe_messages=True) as channel:
                await channel.subscribe(names.CONTROL_CHANNEL)
                while True:
                    message = await channel.get_message(timeout=_POLL_S)
                    if message is None:
                        continue
                    asked = parse(message["data"])
                    if asked is None:
                        logger.warning("a message on %s was not understood", names.CONTROL_CHANNEL)
                    elif await _concerns(asked, fleet, flagged):
                        await _cancelled(cancel, asked)
        except (RedisError, OSError) as error:
            logger.warning("the control channel is away: %s", error)
            await asyncio.sleep(_RECONNECT_S)


async def _concerns(asked: Message, fleet: int, flagged: Flagged | None) -> bool:
    if asked.fleet is not None:
        return asked.fleet == fleet
    return flagged is None or await flagged(asked.job_id)


async def _cancelled(cancel: Cancel, asked: Message) -> None:
    """Cancel one job; an error is logged, and keeps no later message from being read."""
    try:
        await cancel(asked.job_id, asked.reason)
    except (RedisError, OSError):
        raise
    except Exception:
        logger.exception("job %s cannot be cancelled", asked.job_id)
