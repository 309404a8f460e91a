"""The prompt queue on RabbitMQ."""

from typing import Any

from amqp.exceptions import NotFound


def messages(broker: Any) -> int:
    """Return how many messages are ready on the queue; 0 if the queue does not exist."""
    try:
        declared = broker.channel().queue_declare("prompts", passive=True)
    except NotFound:
        return 0
    return int(declared.message_count)
