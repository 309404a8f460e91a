"""A kombu consumer over our transport, without a worker around it."""

import contextlib
import socket

from kombu import Consumer, Queue

from tests.support.workers import wait_until

QUEUE = Queue("prompts", durable=True)


class Taker:
    """A consumer that keeps what it gets and acknowledges nothing."""

    def __init__(self, connection, channel=None):
        self.got = []
        self.redelivered = []
        self.connection = connection
        self.channel = channel or self.connection.channel()
        self.consumer = Consumer(self.channel, [QUEUE], on_message=self._on_message)
        self.consumer.consume()

    def _on_message(self, message):
        self.got.append(message.payload)
        self.redelivered.append(message.delivery_info.get("redelivered", False))

    def turn(self, timeout=0.1):
        """Read the messages that have come, and ask for more."""
        with contextlib.suppress(TimeoutError, socket.timeout):
            self.connection.drain_events(timeout=timeout)

    def until(self, count):
        wait_until(lambda: self.turn() or len(self.got) >= count, f"{count} messages")

    def asked(self):
        """Send the command that waits for a message, and do not read its reply."""
        self.channel.connection.cycle.on_poll_start()
