"""A provider without an upstream: it repeats the user's message, word by word."""

import asyncio
import re
from collections.abc import AsyncGenerator
from typing import Final

from pydantic import JsonValue

from berlin_schemas import ErrorCode, PromptJob
from berlin_worker.errors import JobError
from berlin_worker.providers.base import Provider, Report, Services
from berlin_worker.providers.text import texts_of

_WORD: Final = re.compile(r"\S+\s*|\s+")
_MAX_DELAY_S: Final = 3600.0


class EchoProvider(Provider):
    """Streams the last message of the user; the joined deltas are equal to it.

    Options: ``delay_s``, seconds before each chunk (0), and ``repeat``, how many times
    the message is sent (1). A word counts as a token in the usage.
    """

    default_model = "echo"

    def __init__(self, services: Services) -> None:
        """Take the limit of chunks; nothing of the environment is needed."""
        self._max_chunks = services.settings.max_chunks

    def check(self, job: PromptJob) -> None:
        """Refuse unknown options, wrong types and more than WORKER_MAX_CHUNKS chunks."""
        for name, value in job.options.items():
            if name == "delay_s":
                sound, wanted = _is_delay(value), f"a number from 0 to {_MAX_DELAY_S:g}"
            elif name == "repeat":
                sound, wanted = _is_count(value), "an integer above 0"
            else:
                message = f"unknown option {name[:40]!a}; known: delay_s, repeat"
                raise JobError(ErrorCode.INVALID_JOB, message)
            if not sound:
                raise JobError(ErrorCode.INVALID_JOB, f"the option {name} must be {wanted}")
        if len(_words(job)) * _repeat(job) > self._max_chunks:
            message = f"the echo would have more than {self._max_chunks} chunks (WORKER_MAX_CHUNKS)"
            raise JobError(ErrorCode.INVALID_JOB, message)

    async def stream(self, job: PromptJob, report: Report) -> AsyncGenerator[list[str], None]:
        """Yield one word a chunk, with the whitespace that follows it."""
        delay_s = job.options.get("delay_s", 0)
        words = _words(job)
        prompt_words = sum(len(_WORD.findall(text)) for text in texts_of(job.messages, "echo"))
        sent_words = 0
        for _ in range(_repeat(job)):
            for word in words:
                # A sleep even without a delay: other jobs must run during a long echo.
                await asyncio.sleep(delay_s if isinstance(delay_s, int | float) else 0)
                yield [word]
                sent_words += 1
        report.usage = {
            "prompt_tokens": prompt_words,
            "completion_tokens": sent_words,
            "total_tokens": prompt_words + sent_words,
        }


def _words(job: PromptJob) -> list[str]:
    texts = texts_of(job.messages, "echo")
    by_user = [text for text, each in zip(texts, job.messages, strict=True) if each.role == "user"]
    return _WORD.findall(by_user[-1] if by_user else texts[-1])


def _repeat(job: PromptJob) -> int:
    repeat = job.options.get("repeat", 1)
    return repeat if isinstance(repeat, int) else 1


def _is_delay(value: JsonValue) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 <= value <= _MAX_DELAY_S  # NaN compares as false


def _is_count(value: JsonValue) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
