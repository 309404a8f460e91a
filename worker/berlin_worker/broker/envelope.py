"""The one parser of the messages of a Redis queue, and of Celery's broadcasts. Pure.

No other code reads a message before this parser has accepted it: if a more lenient parser came
first, it could pass on a message that ends the worker.
"""

import base64
import json
import re
from typing import Any, Final, NoReturn

from pydantic_core import from_json

from berlin_schemas.jobs import values_below
from berlin_schemas.names import is_job_id

_MOST_DEPTH: Final = 200
"""The limit of jiter. Messages of producers are far from it, since their body is a string."""
_ID: Final = re.compile(rb'"id"\s*:\s*"([A-Za-z0-9_-]{1,128})"')


class InvalidEnvelope(ValueError):
    """A message that cannot be parsed. ``job_id`` is the ID in it, or an empty string."""

    def __init__(self, message: str, job_id: str = "") -> None:
        super().__init__(message)
        self.job_id = job_id


def read(raw: bytes) -> dict[str, Any]:
    """Return a message of a queue whose fields have the types that kombu needs.

    ``body`` and ``properties.delivery_tag`` are strings, ``properties.delivery_info`` has strings
    as ``exchange`` and ``routing_key``, and ``headers`` is an object, or missing as in protocol 1.
    Other fields may have any type. Raises :class:`InvalidEnvelope`.
    """
    try:
        message = parse(raw)
    except ValueError as error:
        raise InvalidEnvelope(str(error), _id_in_text(raw)) from None
    # An entry of kombu's own unacked hash: a worker with kombu's own transport has died.
    if isinstance(message, list) and len(message) == 3 and isinstance(message[0], dict):  # noqa: PLR2004  # message, exchange, routing key
        message = message[0]
    if (problem := _problem(message)) is not None:
        raise InvalidEnvelope(problem, _id_in(message))
    assert isinstance(message, dict), "checked above"
    return message


def read_broadcast(raw: bytes) -> dict[str, Any]:
    """Return a message of a channel: an object with a string as body and with properties.

    Raises :class:`InvalidEnvelope`.
    """
    try:
        message = parse(raw)
    except ValueError as error:
        raise InvalidEnvelope(str(error)) from None
    if not isinstance(message, dict) or not isinstance(message.get("body"), str):
        raise InvalidEnvelope("no object with a body")
    properties = message.get("properties")
    if not isinstance(properties, dict) or not isinstance(properties.get("delivery_tag"), str):
        raise InvalidEnvelope("properties: an object with a delivery_tag is needed")
    if not isinstance(properties.get("delivery_info", {}), dict):
        raise InvalidEnvelope("properties.delivery_info: an object is needed")
    if not isinstance(message.get("headers") or {}, dict):
        raise InvalidEnvelope("headers: an object is needed")
    return message


def parse(raw: bytes) -> Any:
    """Parse JSON (RFC 8259) of at most 200 levels.

    Like Python's parser it accepts half a surrogate pair, and the last value of a repeated key
    counts. Raises ``ValueError``, whose text holds no part of the message.
    """
    try:
        # Cached, since all messages have the same keys: that saves 1.5 of a stream's 47 KB.
        return from_json(raw, allow_inf_nan=False, cache_strings="keys")
    except ValueError as error:
        refusal = str(error)
    if b"\\u" not in raw:
        raise ValueError(refusal)
    try:
        parsed = json.loads(raw.decode(), parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise ValueError(refusal) from None
    if values_below(parsed, _MOST_DEPTH):
        raise ValueError(refusal)
    return parsed


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _problem(message: Any) -> str | None:
    if not isinstance(message, dict):
        return "no object"
    properties, headers = message.get("properties"), message.get("headers")
    if not isinstance(properties, dict):
        return "properties: an object is needed"
    if not isinstance(properties.get("delivery_tag"), str):
        return "properties.delivery_tag: a string is needed"
    delivery = properties.get("delivery_info")
    if not isinstance(delivery, dict):
        return "properties.delivery_info: an object is needed"
    if not (
        isinstance(delivery.get("exchange"), str) and isinstance(delivery.get("routing_key"), str)
    ):
        return "properties.delivery_info: exchange and routing_key are needed"
    if headers is not None and not isinstance(headers, dict):
        return "headers: an object is needed"
    if not isinstance(message.get("body"), str):
        return "body: a string is needed"
    return None


def job_id_of(message: dict[str, Any]) -> str:
    """Return the job ID in the headers of a message, or (protocol 1) in its body, or ""."""
    headers = message.get("headers")
    candidate = headers.get("id") if isinstance(headers, dict) else None
    if candidate is None:
        candidate = _id_in_body(message)
    return str(candidate) if is_job_id(candidate) else ""


def job_id_in(raw: bytes) -> str:
    """Return the job ID in a message, which may be invalid; an empty string if it has none."""
    try:
        return job_id_of(read(raw))
    except InvalidEnvelope as error:
        return error.job_id


def task_id_of(message: Any) -> object:
    """Return the task ID of kombu's ``message``, of any type; ``None`` if it has none."""
    if isinstance(message.headers, dict) and "id" in message.headers:
        return message.headers["id"]
    try:
        return message.payload.get("id")
    except Exception:  # noqa: BLE001  # kombu decodes the body here, and may raise anything
        return None


def _id_in(message: Any) -> str:
    return job_id_of(message) if isinstance(message, dict) else ""


def _id_in_body(message: dict[str, Any]) -> object:
    body, properties = message.get("body"), message.get("properties")
    if not isinstance(body, str):
        return None
    try:
        data = body.encode()
        if isinstance(properties, dict) and properties.get("body_encoding") == "base64":
            data = base64.b64decode(data)
        task = parse(data)
    except ValueError:
        return None
    return task.get("id") if isinstance(task, dict) else None


def _id_in_text(raw: bytes) -> str:
    """Return the job ID in a text that is not JSON, if it holds exactly one; else ""."""
    found = set(_ID.findall(raw))
    return found.pop().decode() if len(found) == 1 else ""
