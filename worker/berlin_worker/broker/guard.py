"""What arrives at a channel of kombu's Redis transport: no message of any shape ends the worker.

A message is parsed once, here, before kombu or Celery see it. What is none goes to the dead
letters, and so does one at which kombu or Celery fail.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from errno import EINVAL, EOVERFLOW, ERANGE
from queue import Empty
from typing import Any

from amqp.exceptions import AMQPError
from celery.utils.log import get_logger
from kombu.utils.encoding import bytes_to_str
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from berlin_schemas import names
from berlin_worker.broker import envelope

logger = get_logger(__name__)


class Guarded:
    """A channel that takes anything; stands before kombu's class."""

    _kept: Any = None

    @staticmethod
    def on_unreadable(job_id: str) -> None:
        """Hook: receives the job ID, or "", of a message that is no message. The consumer of jobs
        puts its own in the place of this."""

    @contextmanager
    def conn_or_acquire(self: Any, client: Any = None) -> Iterator[Any]:
        """A client; a channel that is closed has none, and kombu fails on it in odd ways."""
        if client is None:
            if self.connection is None:
                raise RedisConnectionError("the connection of this channel is gone")
            # Kept: to make one costs more than most of what it is asked for.
            if self._kept is None or self._kept.connection_pool is not self.pool:
                self._kept = self._create_client()
            client = self._kept
        yield client

    def get_table(self: Any, exchange: str) -> list[tuple[str, ...]]:
        """As kombu's, without what is no binding: one would keep all from publishing."""
        with self.conn_or_acquire() as client:
            members = client.smembers(self.keyprefix_queue % exchange)
        bindings = [tuple(bytes_to_str(member).split(self.sep)) for member in members]
        return [binding for binding in bindings if len(binding) == 3]  # noqa: PLR2004  # routing key, pattern, queue

    def _deliver(self: Any, raw: bytes, queue: str, tag: str, redelivered: bool) -> None:
        message = self._read(raw, tag, redelivered)
        if message is None:
            return
        try:
            self.connection._deliver(message, queue)  # noqa: SLF001  # as kombu's own does
        except Exception as error:  # a body that kombu cannot decode ends a worker
            if is_lost_connection(error):
                raise
            self._dead_letter(tag, envelope.job_id_of(message), "undecodable", error)
            return
        if tag not in self.qos._delivered:  # noqa: SLF001  # kombu 5.7 does not tell otherwise
            # Whoever got it acknowledges nothing, as who collects replies to `inspect`.
            self.qos._remove_from_indices(tag).execute()  # noqa: SLF001  # as an ack does

    def _read(self: Any, raw: bytes, tag: str, redelivered: bool) -> dict[str, Any] | None:
        """The message, or nothing if it is none: then it is a dead letter."""
        try:
            message = envelope.read(raw)
        except envelope.InvalidEnvelope as error:
            self._dead_letter(tag, error.job_id, "not_a_message", error)
            return None
        # Many hand-made messages bear the same tag.
        message["properties"]["delivery_tag"] = tag
        if redelivered:
            message["properties"]["delivery_info"]["redelivered"] = True
        return message

    def _dead_letter(self: Any, tag: str, job_id: str, reason: str, error: Exception) -> None:
        logger.error("a message was discarded: %s (%s)", reason, type(error).__name__)
        self.qos.forget(tag)
        try:
            self.qos.dead_letter(tag, job_id, reason)
        except ResponseError as refusal:  # it comes back when its time is up
            logger.error("a message cannot be moved to %s: %s", names.DEAD_LETTERS, refusal)  # noqa: TRY400  # says all there is
            return
        self.on_unreadable(job_id)

    def _receive_one(self: Any, client: Any) -> Any:
        """Deliver one broadcast, of Celery's remote control or events; drop what is none."""
        try:
            response = client.parse_response()
        except self.connection_errors:
            self._in_listen = None
            raise
        if not isinstance(response, list | tuple):
            return None
        received = self._handle_message(client, response)
        data = received["data"]
        if not bytes_to_str(received["type"]).endswith("message") or not data:
            return None
        try:
            channel = bytes_to_str(received["channel"])
            if channel.startswith("/"):  # the number of the database, as in /0.celery.pidbox
                channel = channel.partition(".")[2]
            exchange = channel.split("/", 1)[0]
            return self._deliver_fanout_message(envelope.read_broadcast(data), exchange)
        except Exception as error:  # anybody may publish anything
            if is_lost_connection(error):
                raise
            logger.warning("a broadcast was dropped: %s", type(error).__name__)
            return None

    def _pop_read(self: Any, **options: Any) -> bool:
        """As kombu's, for who collects replies; what is no message is dropped."""
        try:
            try:
                popped = self.client.parse_response(self.client.connection, "BRPOP", **options)
            except self.connection_errors:
                self.client.connection.disconnect()  # the next round connects again
                raise
        finally:
            self._in_poll = None
            self._flush_brpop_reauth()
        if not popped:
            raise Empty
        key, raw = popped
        queue = bytes_to_str(key).rsplit(self.sep, 1)[0]
        self._queue_cycle.rotate(queue)
        try:
            message = envelope.read(raw)
        except envelope.InvalidEnvelope as error:
            logger.warning("a reply was dropped: %s", error)
            raise Empty from None
        self.connection._deliver(message, queue)  # noqa: SLF001  # as kombu's own does
        return True


def is_lost_connection(error: BaseException) -> bool:
    """Whether an error that was raised at work on a message is the fault of the connection.

    kombu counts ``KeyError`` among the errors of a connection, and any ``OSError``: dates that no
    clock can tell raise one, too.
    """
    if isinstance(error, RedisError | ConnectionError | TimeoutError | AMQPError):
        return True
    return isinstance(error, OSError) and error.errno not in {None, EINVAL, EOVERFLOW, ERANGE}
