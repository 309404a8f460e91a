"""The channels of all readers of a client, by reference count; subclasses subscribe them."""

import asyncio
import contextlib
import os

from berlin_worker.client.resp3 import fail
from berlin_worker.client.subscription import Channel, Subscription
from berlin_worker.client.values import CLOSED
from berlin_worker.errors import ClientError


class ChannelRegistry:
    """Hands out subscriptions, in the event loop that creates it.

    A subclass subscribes in :meth:`_added`, unsubscribes in :meth:`_removed`, and begins its work
    in :meth:`_start`, which each :meth:`open` calls.
    """

    def __init__(self, *, buffer_bytes: int) -> None:
        self._buffer_bytes = buffer_bytes
        self._loop = asyncio.get_running_loop()
        self._pid = os.getpid()
        self._channels: dict[bytes, Channel] = {}
        self._closed = False

    @property
    def in_own_loop(self) -> bool:
        """Whether the caller runs in the event loop, and the process, of this registry."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return False
        return loop is self._loop and os.getpid() == self._pid

    def open(self, channel: str) -> Subscription:
        """Return a subscription for ``channel``; close it with :meth:`close`.

        Raises ``ClientError`` once the client is closed.
        """
        if self._closed:
            raise ClientError(CLOSED)
        subscription = Subscription(channel.encode(), self._buffer_bytes)
        name = subscription.channel
        if name not in self._channels:
            self._channels[name] = Channel()
            self._added(name)
        self._channels[name].subscriptions.add(subscription)
        self._start()
        return subscription

    async def acknowledged(self, subscription: Subscription) -> None:
        """Wait until the server has acknowledged the subscription of ``subscription``.

        Raises Redis' ``AuthenticationError`` or ``NoPermissionError``: waiting does not help.
        """
        await asyncio.shield(self._channels[subscription.channel].acknowledged)

    def close(self, subscription: Subscription) -> None:
        """Deliver nothing more to ``subscription``; the last one of a channel unsubscribes.

        A reader that waits for its next message, in another task, wakes up.
        """
        subscription.wake_idle()
        name = subscription.channel
        channel = self._channels.get(name)
        if channel is None:
            return
        channel.subscriptions.discard(subscription)
        if not channel.subscriptions:
            channel.acknowledged.cancel()
            del self._channels[name]
            self._removed(name)

    def discard(self, subscription: Subscription) -> None:
        """Close a subscription from any thread, also after the event loop was closed."""
        with contextlib.suppress(RuntimeError):  # the loop is closed, and so are the connections
            self._loop.call_soon_threadsafe(self.close, subscription)

    def _close_readers(self) -> None:
        """End all subscriptions; readers that still wait get a ``ClientError``."""
        self._closed = True
        for channel in self._channels.values():
            fail(channel.acknowledged, ClientError(CLOSED))
            for subscription in channel.subscriptions:
                subscription.close()

    def _added(self, name: bytes) -> None:
        raise NotImplementedError

    def _removed(self, name: bytes) -> None:
        raise NotImplementedError

    def _start(self) -> None:
        raise NotImplementedError
