"""Messages as text, for providers that take text alone. Pure."""

from collections.abc import Mapping, Sequence

from berlin_schemas import ErrorCode, Message
from berlin_worker.errors import JobError


def texts_of(messages: Sequence[Message], provider: str) -> list[str]:
    """Return the content of each message as text, its text parts joined.

    Raises ``JobError(INVALID_JOB)`` for content that is no text; the message names its place, its
    type, and ``provider``, which cannot take it.
    """
    return [
        text_of(message.content, f"messages.{place}", provider)
        for place, message in enumerate(messages)
    ]


def text_of(content: str | Sequence[Mapping[str, object]] | None, place: str, provider: str) -> str:
    """Return one message's content as :func:`texts_of` does; ``place`` is that of the message."""
    if isinstance(content, str):
        return content
    if content is None:
        raise _refusal(f"{place}.tool_calls", provider, "calls without text")
    return "".join(
        _part_text(part, f"{place}.content.{index}", provider) for index, part in enumerate(content)
    )


def _part_text(part: Mapping[str, object], place: str, provider: str) -> str:
    if part["type"] != "text":
        raise _refusal(place, provider, f"parts of the type {str(part['type'])[:40]!a}")
    text = part.get("text")
    if not isinstance(text, str):
        raise JobError(ErrorCode.INVALID_JOB, f"{place}.text must be a string")
    return text


def _refusal(place: str, provider: str, what: str) -> JobError:
    return JobError(ErrorCode.INVALID_JOB, f"{place}: {provider} cannot take {what}")
