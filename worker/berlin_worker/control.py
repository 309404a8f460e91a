"""Cancelling: listen on the control channel (contract, "Cancelling").

A message that is missed does no harm: the canceller has set a flag in the record,
which is seen when the job is claimed and whenever its lease is renewed.
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable

import redis.asyncio
from redis.exceptions import RedisError

from berlin_schemas import names

logger = logging.getLogger(__name__)

_RECONNECT_S = 0.5
_POLL_S = 5.0
_MAX_REASON = 200

Cancel = Callable[[str, str], Awaitable[None]]
"""Called with a job ID and a reason."""


def parse(data: object) -> tuple[str, str] | None:
    """The job ID and the reason in a control message; ``None`` for what is no such message."""
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
    return message["cancel"], told or "requested"


async def listen(client: redis.asyncio.Redis, cancel: Cancel) -> None:
    """Call ``cancel`` for each message, until cancelled; a lost connection is made again."""
    while True:
        try:
            async with client.pubsub(ignore_subscribe_messages=True) as channel:
                await channel.subscribe(names.CONTROL_CHANNEL)
                while True:
                    message = await channel.get_message(timeout=_POLL_S)
                    if message is None:
                        continue
                    if asked := parse(message["data"]):
                        await _cancelled(cancel, *asked)
                    else:
                        logger.warning("a message on %s was not understood", names.CONTROL_CHANNEL)
        except (RedisError, OSError) as error:
            logger.warning("the control channel is away: %s", error)
            await asyncio.sleep(_RECONNECT_S)


async def _cancelled(cancel: Cancel, job_id: str, reason: str) -> None:
    """Cancel one job; an error is logged, and keeps no later message from being read."""
    try:
        await cancel(job_id, reason)
    except (RedisError, OSError):
        raise
    except Exception:
        logger.exception("job %s cannot be cancelled", job_id)
