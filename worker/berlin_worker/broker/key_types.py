"""Heal the keys in which kombu keeps its queues and bindings: any client may have written them.

A key of a wrong type would stop each worker that declares its queues, since Celery repeats that for
ever. Such a key is deleted, with one line in the log; ``requeue_expired.lua`` deletes the lists.
"""

from collections.abc import Callable
from typing import Any, Final, TypeVar

from celery.utils.log import get_logger
from redis.exceptions import RedisError, ResponseError

from berlin_worker.storage.redis_errors import is_wrong_type
from berlin_worker.storage.scripts import source

logger = get_logger(__name__)

T = TypeVar("T")

_SCRIPT: Final = source("delete_wrong_types", "wrong_type")


class KeyTypesMixin:
    """A channel that survives keys of wrong types. It stands before kombu's class in the MRO."""

    def _size(self: Any, queue: str) -> int:
        """Return the number of messages on the lists of a queue; a key of another type has none."""
        try:
            size: int = super()._size(queue)  # type: ignore[misc]  # kombu's channel is the next base
        except ResponseError as error:
            if not is_wrong_type(error):
                raise
        else:
            return size
        with self.conn_or_acquire() as client, client.pipeline() as pipe:
            for step in self.priority_steps:
                pipe.llen(self._q_for_pri(queue, step))
            sizes = pipe.execute(raise_on_error=False)
        return sum(size for size in sizes if isinstance(size, int))

    def _queue_bind(self: Any, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        bind = super()._queue_bind  # type: ignore[misc]  # kombu's channel is the next base
        self._healing([exchange], lambda: bind(exchange, routing_key, pattern, queue))

    def _delete(self: Any, queue: str, exchange: str, *args: Any, **kwargs: Any) -> None:
        delete = super()._delete  # type: ignore[misc]  # kombu's channel is the next base
        self._healing([exchange], lambda: delete(queue, exchange, *args, **kwargs))

    def _refresh_bindings(self: Any, queues: list[str]) -> None:
        refresh = super()._refresh_bindings  # type: ignore[misc]  # kombu's channel is the next base
        exchanges = {each.exchange for name in queues for each in self.state.queue_bindings(name)}
        self._healing(sorted(exchanges), lambda: refresh(queues))

    def sweep_bindings(self: Any, limit: int = 100) -> int:
        """Delete the bindings that no consumer refreshed, and return their number."""
        sweep = super().sweep_bindings  # type: ignore[misc]  # kombu's channel is the next base
        swept: int = self._healing([], lambda: sweep(limit))
        return swept

    def _healing(self: Any, exchanges: list[str], call: Callable[[], T]) -> T:
        """Return ``call()``; if a key of the bindings has a wrong type, delete it and call again.

        Raises the first error if the user of this channel may not delete keys.
        """
        try:
            return call()
        except ResponseError as error:
            if not is_wrong_type(error):
                raise
            kinds = {self.keyprefix_binding_deadlines: "zset"}
            for exchange in exchanges:
                kinds[self.keyprefix_queue % exchange] = "set"
                kinds[self.keyprefix_binding_permanent % exchange] = "set"
            try:
                with self.conn_or_acquire() as client:
                    deleted = client.eval(_SCRIPT, len(kinds), *kinds, *kinds.values())
            except RedisError:
                raise error from None
        for key in deleted:
            logger.warning("%a had a value that no worker writes, and was deleted", key)
        return call()
