"""Listen for cancellations on the control channel (schemas/README.md, "Cancelling").

A lost message does no harm: the client has set a flag in the record. A worker reads the flag when
it claims the job and whenever it renews the lease.

All databases of a server, and so all fleets on it, share the channel. A message may name a fleet
by the number of its database. A message without that is for the fleet whose record of the job
has the flag.
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
"""Receives a job ID and a reason."""
Flagged = Callable[[str], Awaitable[bool]]
"""Returns whether the record of a job has the cancel flag."""


@dataclass(frozen=True, slots=True)
class Message:
    """A control message; ``fleet`` is the number of a database, or ``None`` if not given."""

    job_id: str
    reason: str
    fleet: int | None


def parse(data: object) -> Message | None:
    """Parse a control message; return ``None`` for anything else."""
    if not isinstance(data, bytes):
        return None
    try:
        message = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(message, dict) or not names.is_job_id(message.get("cancel")):
        return None
    reason = message.get("reason")
    text = reason[:_MAX_REASON] if isinstance(reason, str) else ""
    fleet = message.get("fleet")
    if fleet is not None and type(fleet) is not int:
        return None
    return Message(message["cancel"], text or "requested", fleet)


def flags(client: redis.asyncio.Redis) -> Flagged:
    """Return a reader of the cancel flags in the records of jobs."""

    async def flagged(job_id: str) -> bool:
        try:
            async with asyncio.timeout(_FLAG_TIMEOUT_S):
                found: bool = await client.hexists(names.state_key(job_id), "cancel")
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
    """Call ``cancel`` for each message, until cancelled; reconnect after a lost connection.

    Messages to another fleet are skipped. A message without a fleet is skipped unless the job is
    ``flagged``.
    """
    while True:
        try:
            async with client.pubsub(ignore_subscribe_messages=True) as channel:
                await channel.subscribe(names.CONTROL_CHANNEL)
                while True:
                    message = await channel.get_message(timeout=_POLL_S)
                    if message is None:
                        continue
                    control = parse(message["data"])
                    if control is None:
                        logger.warning(
                            "a message on %s is no control message", names.CONTROL_CHANNEL
                        )
                    elif await _concerns(control, fleet, flagged):
                        await _cancelled(cancel, control)
        except (RedisError, OSError) as error:
            logger.warning("the control channel is lost, reconnecting: %s", error)
            await asyncio.sleep(_RECONNECT_S)


async def _concerns(message: Message, fleet: int, flagged: Flagged | None) -> bool:
    if message.fleet is not None:
        return message.fleet == fleet
    return flagged is None or await flagged(message.job_id)


async def _cancelled(cancel: Cancel, message: Message) -> None:
    """Cancel one job. An error is logged, so that later messages are still read."""
    try:
        await cancel(message.job_id, message.reason)
    except (RedisError, OSError):
        raise
    except Exception:
        logger.exception("job %s cannot be cancelled", message.job_id)
