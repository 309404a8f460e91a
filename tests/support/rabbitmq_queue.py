"""The prompt queue on RabbitMQ."""

from typing import Any

from amqp.exceptions import NotFound


def messages(broker: Any) -> int:
    """How many messages are ready on the queue; with none unacknowledged once it is deleted."""
    try:
        declared = broker.channel().queue_declare("prompts", passive=True)
    except NotFound:
        return 0
    return int(declared.message_count)
