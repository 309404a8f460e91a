"""Purging the job queue: ``celery -A berlin_worker purge``, ``app.control.purge()``.

The message of a job is a signal only, so a purge that deletes messages alone would not hold: the
record of a job that ``client.submit`` wrote brings its message back. Here each purged message ends
its job first (``cancelled``, reason ``purged``) and is removed then: a purge that breaks off
leaves each job either on the queue or ended. A job that runs, or has ended, stays as it is.

On Redis a purge also ends a scheduled job that a worker holds until its ETA; the worker removes the
message at that time. RabbitMQ does not list the messages that a worker holds.
"""

import asyncio
import functools
import itertools
import logging
import re
import secrets
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import Any, Final

import click
from amqp.exceptions import AMQPError, NotFound
from celery import Celery
from celery.app.control import Control
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from berlin_schemas import names
from berlin_schemas.jobs import MAX_JOB_BYTES
from berlin_worker.broker import amqp_decoding, celery_cli, decompression, envelope

logger = logging.getLogger(__name__)

REASON: Final = "purged"
_AT_ONCE: Final = 50
"""Messages in memory at once; each may have more than a megabyte."""
_DEADLINE_S: Final = 600.0
_BATCH_TIMEOUT_S: Final = 30.0
"""How long the purge waits for the event store to end the jobs of one batch of messages."""
_INVALID: Final = (ValueError, LookupError, TypeError, AttributeError)
"""What kombu raises for a message of another shape; no error of a connection is among them."""
_CONFIRM: Final = "This ends every job that waits, and removes its message. Go on?"


class PurgeMixin:
    """A channel whose purge of the job queue ends the jobs. It stands before kombu's class."""

    def _purge(self: Any, queue: str) -> int:
        if queue != names.QUEUE:
            others: int = super()._purge(queue)  # type: ignore[misc]  # kombu's channel is the next base
            return others
        lists = [self._q_for_pri(queue, step) for step in self.priority_steps]
        try:
            # In another thread, since the caller may run in an event loop.
            with self.conn_or_acquire() as client, ThreadPoolExecutor(1) as thread:
                held = getattr(self, "unacked_key", "")
                purge = functools.partial(_purge, client, lists, held)
                purged: int = thread.submit(lambda: asyncio.run(purge())).result()
        except (RedisError, ConnectionError, TimeoutError) as error:
            message = f"the purge has stopped, what is left is still on the queue: {error}"
            if click.get_current_context(silent=True) is None:
                raise ConnectionError(message) from error
            # Celery's command would print that there was no message.
            raise click.ClickException(message) from None
        return purged


async def _purge(client: Any, lists: Sequence[str], held: str) -> int:
    """End the jobs of all messages on ``lists``, remove the messages, and return their number.

    Messages in the hash ``held`` stay, since their workers remove them. Each of them counts if
    this call ends its job. ``client`` blocks, and this event loop runs nothing else. Raises
    redis-py's errors, and the builtin ``ConnectionError`` and ``TimeoutError``.
    """
    purged = 0
    async with AsyncExitStack() as stack:
        store, journal = await _open_store(stack)
        for key in lists:
            # Counted once, or a producer that goes on would keep the purge running.
            left = client.llen(key)
            while left > 0 and (messages := client.lrange(key, -min(left, _AT_ONCE), -1)):
                left -= len(messages)
                await _end_all(store, journal, map(envelope.job_id_in, messages))
                with client.pipeline() as pipeline:
                    for raw in reversed(messages):
                        pipeline.lrem(key, -1, raw)
                    purged += sum(pipeline.execute())
        # After the lists: meanwhile a worker may have taken a message from one.
        entries = client.hscan_iter(held, count=_AT_ONCE)
        while some := [*itertools.islice(entries, _AT_ONCE)]:
            purged += await _end_all(
                store, journal, (envelope.job_id_in(read_entry(entry)) for _, entry in some)
            )
    return purged


def read_entry(entry: bytes) -> bytes:
    """Return the message in an entry of the unacked hash (``unacked_entry.lua``)."""
    digits, colon, rest = entry.partition(b":")
    return rest[int(digits) :] if colon and re.fullmatch(rb"[0-9]{1,4}", digits) else entry


async def _end_all(store: Any, journal: Any, task_ids: Iterable[object]) -> int:
    """End these jobs by :func:`_end`, and return how many it has ended; skip invalid IDs."""
    job_ids = {each for each in task_ids if isinstance(each, str) and names.is_job_id(each)}
    async with asyncio.timeout(_BATCH_TIMEOUT_S):
        ended = sum(await asyncio.gather(*(_end(store, journal, each) for each in job_ids)))
        await store.update_index()
    return ended


async def _open_store(stack: AsyncExitStack) -> tuple[Any, Any]:
    """Open the store and its journal; ``stack`` closes them."""
    # Only a purge needs these: importing the app must not load the worker.
    from berlin_worker.jobs.journal import Journal  # noqa: PLC0415  # only a purge needs it
    from berlin_worker.settings import Settings  # noqa: PLC0415  # only a purge needs it
    from berlin_worker.storage.connections import connect  # noqa: PLC0415  # only a purge needs it
    from berlin_worker.storage.job_store import RedisStore  # noqa: PLC0415  # only a purge needs it

    settings = Settings.from_env()
    client = await stack.enter_async_context(connect(settings.redis_url))
    store = RedisStore.from_settings(client, settings, owner=f"purge/{secrets.token_hex(4)}")
    stack.push_async_callback(store.aclose)
    journal = Journal(store, buffer_bytes=settings.journal_buffer_bytes)
    writer = asyncio.create_task(journal.run())
    stack.callback(writer.cancel)
    return store, journal


async def _end(store: Any, journal: Any, job_id: str) -> bool:
    """End a job as ``cancelled`` unless it runs or has ended; return whether this call ended it."""
    from berlin_worker.errors import Fenced  # noqa: PLC0415  # only a purge needs it
    from berlin_worker.jobs.attempt import Attempt  # noqa: PLC0415  # only a purge needs it

    claim = await store.claim(job_id, b"", call=secrets.token_hex(8), deadline_s=_DEADLINE_S)
    if claim.status != "claimed":
        return False
    try:
        await Attempt(claim, journal).end_cancelled(REASON)
    except Fenced:  # a worker has taken it over since
        return False
    return True


async def _purge_messages(get: Callable[[], Any], max_job_bytes: int) -> int:
    """End the jobs of all messages that ``get`` returns until it returns ``None``.

    A message is acknowledged when its job has ended; until then the broker would requeue it.
    """
    purged = 0
    async with AsyncExitStack() as stack:
        store, journal = await _open_store(stack)
        while messages := [*itertools.islice(iter(get, None), _AT_ONCE)]:
            task_ids = [_task_id_of(each, max_job_bytes) for each in messages]
            await _end_all(store, journal, task_ids)
            for message in messages:
                message.ack()
            purged += len(messages)
    return purged


def purge_amqp(connection: Any) -> int:
    """End the jobs of all messages on RabbitMQ's job queue, and return the number of messages.

    Raises the errors of kombu's connection, and those of :func:`_purge`.
    """
    amqp_decoding.install()
    channel = connection.channel()
    # Neither a bomb nor a compression that kombu does not know may end the purge.
    channel.Message = type("Message", (_Unopened, channel.Message), {})
    get = functools.partial(_next_message, channel)
    max_job_bytes = connection.transport_options.get("max_job_bytes", MAX_JOB_BYTES)
    with ThreadPoolExecutor(1) as thread:
        purged: int = thread.submit(
            lambda: asyncio.run(_purge_messages(get, max_job_bytes))
        ).result()
    channel.close()
    return purged


class _Unopened:
    """A message whose body kombu leaves as it came: it decompresses none that has errors."""

    errors = ("not opened",)


def _next_message(channel: Any) -> Any:
    """Return the next message of the job queue, not acknowledged; ``None`` if it is empty."""
    while True:
        try:
            raw = channel.basic_get(queue=names.QUEUE, no_ack=False)
            return None if raw is None else channel.message_to_python(raw)
        except NotFound:  # no queue
            return None
        except _INVALID as error:
            # A virtual transport has removed the message before it decodes it.
            logger.warning("a message that cannot be read was removed: %s", type(error).__name__)


def _task_id_of(message: Any, max_job_bytes: int) -> object:
    """Return the task ID of an unopened message, of any type; ``None`` if it has none."""
    compression = message.headers.get("compression") if message.headers else None
    if compression and "id" not in message.headers:
        try:
            message.body = decompression.decompress(message.body, compression, max_job_bytes)
        except Exception:  # noqa: BLE001  # a decoder of any library
            return None
    message.accept = {"application/json"}
    return envelope.task_id_of(message)


class PromptControl(Control):  # type: ignore[misc]  # celery has no type information
    """``app.control``."""

    def purge(self, connection: Any = None) -> int:
        """Discard all waiting tasks, and return their number."""
        with self.app.connection_or_acquire(connection) as conn:
            purged = 0 if _has_purge_mixin(self.app) else purge_amqp(conn)
            return purged + int(super().purge(conn))

    discard_all = purge


def _has_purge_mixin(app: Celery) -> bool:
    """Return whether the channels of the broker purge by :class:`PurgeMixin`."""
    return bool(app.conf.broker_write_url.startswith(("redis", "sentinel")))


def _errors_of(app: Celery) -> tuple[type[Exception], ...]:
    connection = app.connection_for_write()
    errors = (OperationalError, RedisError, AMQPError, *connection.connection_errors)
    return (*errors, *connection.channel_errors)


def install(app: Celery) -> None:
    """Let Celery's command end the jobs, too, if this process is Celery's command line."""
    purge = celery_cli.loaded_command("purge")
    if purge is None:
        return
    run: Any = purge.callback

    @functools.wraps(run)
    def run_in_one_line(*args: Any, **options: Any) -> Any:
        try:
            return run_and_end_jobs(*args, **options)
        except _errors_of(app) as error:
            message = f"the purge has stopped, what is left is still on the queue: {error}"
            raise click.ClickException(f"{message}; run `berlin doctor` for the cause") from None

    def run_and_end_jobs(*args: Any, **options: Any) -> Any:
        asked = set(options["queues"] or [names.QUEUE]) - set(options["exclude_queues"] or [])
        if _has_purge_mixin(app) or names.QUEUE not in asked:
            return run(*args, **options)
        if not options["force"]:
            click.confirm(_CONFIRM, abort=True)
        with app.connection_for_write() as connection:
            click.echo(f"Ended the jobs of {purge_amqp(connection)} messages, which are removed.")
        return run(*args, **{**options, "force": True})

    purge.callback = run_in_one_line
