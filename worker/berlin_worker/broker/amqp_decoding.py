"""Decode the properties and the routing key of any message from RabbitMQ.

py-amqp raises for text that is not UTF-8, and for some values of headers. It raises while it reads
the connection, so one such message ended every worker that received it.
"""

import logging
from collections.abc import Callable
from typing import Any, Final

from amqp import abstract_channel, serialization
from amqp.spec import Basic

logger = logging.getLogger(__name__)

_decode: Final[Callable[[Any, int], tuple[dict[str, Any], int]]] = (
    serialization.decode_properties_basic
)


class _Lenient(bytes):
    """Bytes that decode as UTF-8 whatever they are, and slices of them, too."""

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        return _Lenient(found) if isinstance(found, bytes) else found

    def decode(self, *_: str) -> str:
        return super().decode("utf-8", "replace")


def install() -> None:
    """Let py-amqp decode any message, in the whole process."""
    abstract_channel.loads = _arguments
    serialization.pstr_t = _text
    serialization.PROPERTY_CLASSES[Basic.CLASS_ID] = _properties


def _arguments(form: str, buf: Any, offset: int) -> Any:
    """Decode the arguments of a method; those of a delivery have the routing key."""
    try:
        return serialization.loads(form, buf, offset)
    except UnicodeDecodeError:
        return serialization.loads(form, _Lenient(buf), offset)


def _text(data: Any) -> Any:
    return bytes(data).decode("utf-8", "replace") if isinstance(data, bytes | memoryview) else data


def _properties(buf: Any, offset: int) -> tuple[dict[str, Any], int]:
    try:
        return _decode(buf, offset)
    except Exception as error:  # noqa: BLE001  # headers may hold any bytes
        logger.warning("properties of a message cannot be decoded: %s", type(error).__name__)
        return {}, offset
