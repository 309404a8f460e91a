"""Decode the properties of any message from RabbitMQ.

py-amqp raises for text that is not UTF-8, and for some values of headers. It raises while it reads
the connection, so one such message ended every worker that received it.
"""

import logging
from collections.abc import Callable
from typing import Any, Final

from amqp import serialization
from amqp.spec import Basic

logger = logging.getLogger(__name__)

_decode: Final[Callable[[Any, int], tuple[dict[str, Any], int]]] = (
    serialization.decode_properties_basic
)


def install() -> None:
    """Let py-amqp decode any properties, in the whole process."""
    serialization.pstr_t = _text
    serialization.PROPERTY_CLASSES[Basic.CLASS_ID] = _properties


def _text(data: Any) -> Any:
    return bytes(data).decode("utf-8", "replace") if isinstance(data, bytes | memoryview) else data


def _properties(buf: Any, offset: int) -> tuple[dict[str, Any], int]:
    try:
        return _decode(buf, offset)
    except Exception as error:  # noqa: BLE001  # headers may hold any bytes
        logger.warning("properties of a message cannot be decoded: %s", type(error).__name__)
        return {}, offset
