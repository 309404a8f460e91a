"""What a server's error means for the job, by its status and its body. Pure.

A body is an object ``{"error": {"message", "type", "param", "code"}}``, or one of the shapes that
other servers have made of it: see :func:`read_error`. Inside a stream there is no status; a number
from 400 to 599 in the body, or a known type, stands for it.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final, NamedTuple

from pydantic_core import from_json

from berlin_schemas import ErrorCode
from berlin_worker.errors import JobError
from berlin_worker.providers.openai.redaction import Show
from berlin_worker.providers.status import AUTH_STATUSES, retry_after_s, status_message

_RETRIED: Final = frozenset({408, 409, 425, 429})
_QUOTA_CODES: Final = frozenset(
    {
        "insufficient_quota",
        "billing_hard_limit_reached",
        "billing_not_active",
        "budget_exceeded",
        "insufficient_credits",
        "insufficient_balance",
        "quota_exceeded",
        "exceeded_current_quota_error",  # Moonshot
        "arrearage",  # Alibaba
        "1113",  # Zhipu
    }
)
_QUOTA_WORDS: Final = re.compile(
    r"insufficient_quota|exceeded your current quota|insufficient (?:credit|balance)"
    r"|reached your specified api usage limits|budget has been exceeded|exceededbudget"
    r"|credit balance is too low|spending limit|key limit exceeded",
    re.IGNORECASE,
)
_CONTEXT_CODES: Final = frozenset(
    {"context_length_exceeded", "exceed_context_size_error", "context_window_exceeded"}
)
_CONTEXT_WORDS: Final = re.compile(
    r"context_length_exceeded|contextwindowexceeded"
    r"|maximum (?:context|model|input) length|context (?:length|size|window)[^.]{0,40} exceed"
    r"|exceeds?(?: the)?(?: available| model's| maximum)? (?:context|input length)"
    r"|`inputs` (?:tokens|must have less)|prompt is too long|input is too long"
    r"|input token count .{0,20}exceeds"
    r"|(?:longer|greater) than the (?:model's )?context length|with context length of only"
    r"|range of input length should be|too many tokens: size limit",
    re.IGNORECASE,
)
_STATUS_OF_KIND: Final = (
    (re.compile(r"rate.?limit|too.?many|throttl|resource.?exhausted", re.IGNORECASE), 429),
    (re.compile(r"content.?(?:filter|policy)|inspection", re.IGNORECASE), 400),
    (re.compile(r"auth|api.?key|permission", re.IGNORECASE), 401),
    (re.compile(r"overload|unavailable|server|internal|timeout", re.IGNORECASE), 500),
    (re.compile(r"invalid|bad.?request|not.?found|unprocessable", re.IGNORECASE), 400),
)
_USAGE_OPTION: Final = re.compile(r"stream[ _]?options|include[ _]?usage", re.IGNORECASE)
_UNKNOWN_OPTION: Final = re.compile(
    r"\b(?:additional|extra|unexpected|unknown|unrecognized|unsupported) "
    r"(?:argument|field|input|key|option|parameter|propert)",
    re.IGNORECASE,
)
_NAMED: Final = re.compile(r"[\"'`:]")
"""A character beside the name of an option."""
_JSON_STARTS: Final = frozenset({"{", "["})
_DEPTH: Final = 8
"""How deep an error may be nested: servers send three levels at most."""
_MESSAGE_CHARS: Final = 32768
_KIND_CHARS: Final = 100
_LISTED: Final = 8
"""How many items of a list are read."""
_MESSAGE_KEYS: Final = ("message", "detail", "error_description", "msg", "error", "errors")


class UpstreamError(NamedTuple):
    """An error body as it was read."""

    message: str
    kind: str = ""
    """Its code and its type, as far as they are words."""
    status: int | None = None
    """The HTTP status that it names."""


def read_error(body: object, depth: int = _DEPTH) -> UpstreamError | None:
    """Return the error that a decoded body holds; ``None`` if it holds none.

    The object stands under ``error``, alone (older vLLM) or in a list (Google); ``error`` or
    ``detail`` may be a text (Ollama, FastAPI), ``detail`` a list of what is wrong with each field.
    Nothing is read below ``depth`` levels.
    """
    if isinstance(body, list):
        return read_error(body[0], depth - 1) if body and depth else None
    if not isinstance(body, Mapping):
        return None
    value: Any = body.get("error") or body
    outer = body if value is not body else {}
    if not isinstance(value, Mapping):
        value = {"message": value}
    message = _words_of(value, depth)
    if not message and not outer:
        return None
    metadata = value.get("metadata")
    if isinstance(metadata, Mapping) and isinstance(raw := metadata.get("raw"), str):
        message = f"{message}: {raw}"  # what a model's own server has sent to OpenRouter
    both = (value, outer)
    kinds = (_kind(source.get(key)) for source in both for key in ("code", "type", "status"))
    numbers = (
        number
        for source in both
        for key in ("code", "status", "status_code", "statusCode")
        if (number := _status(source.get(key)))
    )
    found = UpstreamError(message, " ".join(kinds), next(numbers, None))
    # Proxies put the body of the model's server into the message (Google's, Azure's).
    if message.lstrip()[:1] in _JSON_STARTS and depth:
        inner = read_error(_decoded(message), depth - 1) or UpstreamError("")
        kind = f"{found.kind} {inner.kind}".strip()
        found = UpstreamError(inner.message or message, kind, found.status or inner.status)
    return found


def refusal(status: int, headers: Mapping[str, str], body: str, show: Show) -> JobError:
    """Return the error of a reply with an error ``status``.

    ``headers`` looks names up in any case. ``show`` makes the server's words fit to be shown.
    """
    error = read_error(_decoded(body)) or UpstreamError(body)
    code, retryable = _meaning(status, error, is_throttled="retry-after" in headers)
    return JobError(
        code,
        status_message(status, show(error.message)),
        retryable=retryable,
        upstream_status=status,
        retry_after_s=_wait_s(headers) if retryable else None,
    )


def in_stream(error: UpstreamError, show: Show) -> JobError:
    """Return the error of an error object in place of a chunk; an unknown kind is retryable."""
    # An event has a megabyte at most, which the patterns would search for long.
    error = error._replace(message=error.message[:_MESSAGE_CHARS])
    status = error.status or _status_of(error.kind) or HTTPStatus.INTERNAL_SERVER_ERROR.value
    code, retryable = _meaning(status, error, is_throttled=False)
    message = f"the upstream sent an error: {show(error.message)}".removesuffix(": ")
    return JobError(code, message, retryable=retryable, upstream_status=error.status)


def no_stream(body: str, show: Show) -> JobError:
    """Return the error of a reply with status 200 that is no event stream."""
    value = _decoded(body)
    if (error := read_error(value)) and not is_answer(value):
        return in_stream(error, show)
    message = "the upstream answered with no event stream: check the base URL"
    return JobError(ErrorCode.BAD_CHUNK, f"{message}: {show(body)}".removesuffix(": "))


def is_answer(value: object) -> bool:
    """Return whether decoded JSON is a whole answer: what a request without a stream gets."""
    return isinstance(value, Mapping) and bool(value.get("choices")) and not value.get("error")


def names_stream_options(status: int, body: str) -> bool:
    """Return whether a server refuses a request because of the option that asks for the usage.

    A refusal of an extra parameter that names no parameter counts, too.
    """
    if status not in {HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY}:
        return False
    if _USAGE_OPTION.search(body):
        return True
    message = (read_error(_decoded(body)) or UpstreamError(body)).message
    return _UNKNOWN_OPTION.search(message) is not None and _NAMED.search(message) is None


def is_for_usage(error: JobError) -> bool:
    """Return whether a stream's error refuses the request for the option that asks for usage."""
    refuses = error.code is ErrorCode.UPSTREAM_ERROR and not error.retryable
    return refuses and _USAGE_OPTION.search(error.message) is not None


def _meaning(status: int, error: UpstreamError, *, is_throttled: bool) -> tuple[ErrorCode, bool]:
    kinds = {*error.kind.lower().split()}
    is_quota = bool(kinds & _QUOTA_CODES) or (
        # Google has the same words for a limit that passes within a minute.
        not is_throttled
        and "resource_exhausted" not in kinds
        and _QUOTA_WORDS.search(error.message) is not None
    )
    if is_quota or status == HTTPStatus.PAYMENT_REQUIRED:
        return ErrorCode.QUOTA_EXCEEDED, False
    if status in AUTH_STATUSES:
        return ErrorCode.AUTH_FAILED, False
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return ErrorCode.RATE_LIMITED, True
    if kinds & _CONTEXT_CODES or _CONTEXT_WORDS.search(error.message):
        return ErrorCode.CONTEXT_LENGTH_EXCEEDED, False
    passes = status in _RETRIED or status >= HTTPStatus.INTERNAL_SERVER_ERROR
    return ErrorCode.UPSTREAM_ERROR, passes


def _wait_s(headers: Mapping[str, str]) -> float | None:
    """Return the seconds to wait; the finer header counts first."""
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        wait_s = retry_after_s(headers.get(name), datetime.now(UTC), unit_s=unit_s)
        if wait_s is not None:
            return wait_s
    return None


def _status(value: object) -> int | None:
    text = "" if isinstance(value, bool) else _kind(value)
    return int(text) if re.fullmatch(r"[45][0-9]{2}", text, re.ASCII) else None


def _kind(value: object) -> str:
    """Return a word or a number; "" for anything else, and for a number without end."""
    if isinstance(value, str):
        return value[:_KIND_CHARS]
    if isinstance(value, int) and value.bit_length() <= _KIND_CHARS:
        return str(value or "")
    return ""


def _status_of(kind: str) -> int | None:
    return next((status for pattern, status in _STATUS_OF_KIND if pattern.search(kind)), None)


def _words_of(value: object, depth: int) -> str:
    if isinstance(value, str):
        return value
    if depth and isinstance(value, Mapping):
        found = (_words_of(value.get(key), depth - 1) for key in _MESSAGE_KEYS)
        words = next(filter(None, found), "")
        return words and _place(value.get("loc")) + words
    if depth and isinstance(value, list):
        found = (_words_of(item, depth - 1) for item in value[:_LISTED])
        return "; ".join(filter(None, found))
    return ""


def _place(loc: object) -> str:
    names = loc[:_LISTED] if isinstance(loc, list) else []
    return ".".join(map(_kind, names)) + ": " if names else ""


def _decoded(body: str) -> object:
    # Older llama.cpp names its event's field "error" in place of "data".
    try:
        value: object = from_json(body.strip().removeprefix("error:"))
    except ValueError:
        return None
    return value
