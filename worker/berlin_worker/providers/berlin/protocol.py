"""The Berlin protocol as values: headers, bodies, options, prompt. Pure.

Two calls. ``POST /api/login`` with ``{"account", "password"}`` gives
``{"data": {"token"}}``. ``POST /api/chat/completions`` with the header ``token``
gives the reply, see :mod:`berlin_worker.providers.ndjson`.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from yarl import URL

from berlin_schemas import ErrorCode, Message
from berlin_worker.errors import JobError
from berlin_worker.providers.text import text_of

# Relative to the URL of the upstream, which may have a path of its own.
LOGIN_PATH: Final = "api/login"
COMPLETION_PATH: Final = "api/chat/completions"
DEFAULT_MODEL: Final = "gpt-3.5-turbo"
DEFAULT_OPTIONS: Final[Mapping[str, Any]] = {
    "temperature": 0,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "max_tokens": 1888,
}
_FIREFOX: Final = "Mozilla/5.0 (X11; Ubuntu; Linux x86_64; rv:109.0) Gecko/20100101 Firefox/119.0"
_dumps: Final = json.JSONEncoder(allow_nan=False).encode
_MAX_TOKEN_CHARS: Final = 7000  # with the other headers under 8 KiB, a limit of many servers


def request_headers(url: URL, accept_encoding: str) -> dict[str, str]:
    """Return the headers of every call to the upstream at ``url``."""
    return {
        "User-Agent": _FIREFOX,
        "Accept": "*/*",
        "Accept-Language": "de,en-US;q=0.7,en;q=0.3",
        "Accept-Encoding": accept_encoding,
        "Referer": f"{url.with_user(None)}".rstrip("/") + "/",
        "Origin": str(url.origin()),
        "Alt-Used": url.host_port_subcomponent or "",
        "Content-Type": "application/json",
        "Sec-Fetch-Dest": "empty",
        "Sec-Fetch-Mode": "cors",
        "Sec-Fetch-Site": "same-origin",
        "Pragma": "no-cache",
        "Cache-Control": "no-cache",
        "TE": "trailers",
    }


def format_prompt(messages: Sequence[Message | Mapping[str, Any]]) -> str:
    """Return a conversation as one prompt: Berlin takes a text, not a list of messages.

    A single message gives its raw content; several give ``Role: content`` lines and
    a last line ``Assistant:``. Raises ``JobError(INVALID_JOB)`` if there is no message,
    or one without ``role`` and ``content``.
    """
    try:
        turns = [_turn(message, f"messages.{place}") for place, message in enumerate(messages)]
    except (KeyError, TypeError):
        message = "each message is an object with role and content, both strings"
        raise JobError(ErrorCode.INVALID_JOB, message) from None
    if not turns:
        raise JobError(ErrorCode.INVALID_JOB, "messages is empty")
    if len(turns) == 1:
        return turns[0][1]
    lines = "\n".join(f"{role.capitalize()}: {content}" for role, content in turns)
    return f"{lines}\nAssistant:"


def _turn(message: Message | Mapping[str, Any], place: str) -> tuple[str, str]:
    if isinstance(message, Message):
        return message.role, text_of(message.content, place, "berlin")
    role, content = message["role"], message["content"]
    if not (isinstance(role, str) and isinstance(content, str | list)):
        raise TypeError
    return role, text_of(content, place, "berlin")


def login_body(account: str, password: str) -> bytes:
    """Return the body of the login call."""
    return json.dumps({"account": account, "password": password}).encode()


def completion_body(
    prompt: str, model: str, options: Mapping[str, Any], parent_message_id: str
) -> bytes:
    """Return the body of the completion call; ``options``, ``model`` among them, are merged last.

    Raises ``ValueError`` or ``TypeError`` for an option that JSON cannot hold.
    """
    merged = {"model": model or DEFAULT_MODEL, **DEFAULT_OPTIONS, **options}
    body = {"prompt": prompt, "parentMessageId": parent_message_id, "options": merged}
    return _dumps(body).encode()


def read_token(body: bytes) -> str:
    """Return the token in the answer to a login with a success status.

    Raises ``JobError``. An answer in JSON without a token is ``auth_failed``: some services refuse
    credentials that way. Any other answer, such as the page of a proxy, is ``upstream_error``.
    """
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        message = "the answer to the login is no JSON"
        raise JobError(ErrorCode.UPSTREAM_ERROR, message, retryable=True) from None
    data = answer.get("data") if isinstance(answer, dict) else None
    token = data.get("token") if isinstance(data, dict) else None
    if not isinstance(token, str) or not token:
        raise JobError(ErrorCode.AUTH_FAILED, "the answer to the login holds no token")
    if len(token) > _MAX_TOKEN_CHARS or not (token.isascii() and token.isprintable()):
        raise JobError(ErrorCode.UPSTREAM_ERROR, "the token of the login fits in no HTTP header")
    return token


def check_options(options: Mapping[str, Any]) -> None:
    """Raise ``JobError(INVALID_JOB)``, which names the option, for one that Berlin refuses."""
    for name, value in options.items():
        if name == "model":
            sound, wanted = isinstance(value, str) and bool(value), "a string, not empty"
        elif name == "max_tokens":
            sound, wanted = _is_int(value) and value > 0, "an integer above 0"
        elif name in DEFAULT_OPTIONS:
            sound, wanted = _is_finite(value), "a finite number"
        else:
            known = ", ".join(["model", *DEFAULT_OPTIONS])
            raise JobError(ErrorCode.INVALID_JOB, f"unknown option {name[:40]!a}; known: {known}")
        if not sound:
            raise JobError(ErrorCode.INVALID_JOB, f"the option {name} must be {wanted}")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_finite(value: object) -> bool:
    # math.isfinite would raise OverflowError for an integer of 400 digits.
    return _is_int(value) or (isinstance(value, float) and math.isfinite(value))
