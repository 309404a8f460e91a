"""Guard a channel of kombu's Redis transport: no message of any shape ends the worker.

Each message is parsed once, here, before kombu or Celery receive it. A message that cannot be
parsed, or at which kombu or Celery fail, goes to the dead letters.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from errno import EINVAL, EOVERFLOW, ERANGE
from queue import Empty
from typing import Any, NamedTuple

from amqp.exceptions import AMQPError
from celery.utils.log import get_logger
from kombu.utils.encoding import bytes_to_str
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from berlin_schemas import names
from berlin_worker.broker import envelope
from berlin_worker.broker.key_types import KeyTypesMixin
from berlin_worker.broker.state import STATE

logger = get_logger(__name__)


class Reserved(NamedTuple):
    """A message that ``reserve.lua`` has moved to the unacked hash."""

    queue: str
    tag: str
    raw: bytes
    redelivered: bool
    """Whether a worker held it before."""


class Guarded(KeyTypesMixin):
    """A channel that accepts any bytes. It stands before kombu's class in the MRO."""

    _client: Any = None

    @contextmanager
    def conn_or_acquire(self: Any, client: Any = None) -> Iterator[Any]:
        """Yield ``client``, or the client of this channel.

        Raises redis-py's ``ConnectionError`` for a closed channel, at which kombu would fail with
        errors of other types.
        """
        if client is None:
            if self.connection is None:
                raise RedisConnectionError("the connection of this channel is gone")
            # One client is reused: to create a client costs more than most commands.
            if self._client is None or self._client.connection_pool is not self.pool:
                self._client = self._create_client()
            client = self._client
        yield client

    def get_table(self: Any, exchange: str) -> list[tuple[str, ...]]:
        """Return the bindings of an exchange: routing key, pattern and queue of each.

        A member of the set that is no binding is left out: kombu could publish nothing with it.
        """
        with self.conn_or_acquire() as client:
            members = client.smembers(self.keyprefix_queue % exchange)
        bindings = [tuple(bytes_to_str(member).split(self.sep)) for member in members]
        return [binding for binding in bindings if len(binding) == 3]  # noqa: PLR2004  # routing key, pattern, queue

    def _deliver(self: Any, reserved: Reserved) -> None:
        message = self._read(reserved)
        if message is None:
            return
        tag = reserved.tag
        try:
            self.connection._deliver(message, reserved.queue)  # noqa: SLF001  # what kombu's channel calls
        except Exception as error:  # a body that kombu cannot decode ends a worker
            if is_lost_connection(error):
                raise
            self._dead_letter(tag, envelope.job_id_of(message), "undecodable", error)
            return
        if tag not in self.qos._delivered:  # noqa: SLF001  # kombu 5.7 has no public name for it
            # A consumer without acknowledgements took it, such as that of replies to `inspect`.
            self.qos._remove_from_indices(tag).execute()  # noqa: SLF001  # what kombu's QoS.ack calls

    def _read(self: Any, reserved: Reserved) -> dict[str, Any] | None:
        """Return the message, or ``None`` after it became a dead letter."""
        try:
            message = envelope.read(reserved.raw)
        except envelope.InvalidEnvelope as error:
            self._dead_letter(reserved.tag, error.job_id, "not_a_message", error)
            return None
        # Producers that do not use kombu often give one tag to all messages.
        message["properties"]["delivery_tag"] = reserved.tag
        if reserved.redelivered:
            message["properties"]["delivery_info"]["redelivered"] = True
        return message

    def _dead_letter(self: Any, tag: str, job_id: str, reason: str, error: Exception) -> None:
        logger.error("a message was discarded: %s (%s)", reason, type(error).__name__)
        self.qos.release(tag)
        try:
            self.qos.dead_letter(tag, job_id, reason)
        except ResponseError as refusal:  # it comes back after the visibility timeout
            logger.error("a message cannot be moved to %s: %s", names.DEAD_LETTERS, refusal)  # noqa: TRY400  # the error text is enough
            return
        STATE.on_unreadable(job_id)

    def _receive_one(self: Any, client: Any) -> Any:
        """Deliver one broadcast of Celery's remote control or events; drop an invalid one."""
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
        except Exception as error:  # any client may publish any bytes
            if is_lost_connection(error):
                raise
            logger.warning("a broadcast was dropped: %s", type(error).__name__)
            return None

    def _pop_read(self: Any, **options: Any) -> bool:
        """Pop and deliver one message to a consumer that does not acknowledge; drop an invalid one.

        Raises ``Empty`` if no valid message has come.
        """
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
        self.connection._deliver(message, queue)  # noqa: SLF001  # what kombu's channel calls
        return True


def is_lost_connection(error: BaseException) -> bool:
    """Return whether the connection caused an error that was raised while a message was handled.

    kombu's list of connection errors cannot be used: it has ``KeyError`` and any ``OSError``, which
    a date out of range raises, too.
    """
    if isinstance(error, RedisError | ConnectionError | TimeoutError | AMQPError):
        return True
    return isinstance(error, OSError) and error.errno not in {None, EINVAL, EOVERFLOW, ERANGE}
