"""A provider without an upstream: it says what the user said, word by word."""

import asyncio
import re
from collections.abc import AsyncGenerator
from typing import Final

from pydantic import JsonValue

from berlin_schemas import ErrorCode, PromptJob
from berlin_worker.errors import JobError
from berlin_worker.providers.base import Provider, Report, Services

_WORD: Final = re.compile(r"\S+\s*|\s+")
_MAX_DELAY_S: Final = 3600.0


class EchoProvider(Provider):
    """Streams the last message of the user; the joined deltas are equal to it.

    Options: ``delay_s``, seconds before each chunk (0), and ``repeat``, how many times
    the message is said (1). A word counts as a token in the usage.
    """

    default_model = "echo"

    def __init__(self, services: Services) -> None:
        """Needs nothing of the environment."""
        self._max_chunks = services.settings.max_chunks

    def check(self, job: PromptJob) -> None:
        """Refuse unknown options, wrong types and more chunks than are taken of any upstream."""
        for name, value in job.options.items():
            if name == "delay_s":
                sound, wanted = _is_delay(value), f"a number from 0 to {_MAX_DELAY_S:g}"
            elif name == "repeat":
                sound, wanted = _is_count(value), "an integer above 0"
            else:
                told = f"unknown option {name[:40]!a}; known: delay_s, repeat"
                raise JobError(ErrorCode.INVALID_JOB, told)
            if not sound:
                raise JobError(ErrorCode.INVALID_JOB, f"the option {name} must be {wanted}")
        if len(_words(job)) * _repeat(job) > self._max_chunks:
            told = f"the echo would have more than {self._max_chunks} chunks (WORKER_MAX_CHUNKS)"
            raise JobError(ErrorCode.INVALID_JOB, told)

    async def stream(self, job: PromptJob, report: Report) -> AsyncGenerator[list[str], None]:
        """One word a chunk, with the whitespace that follows it."""
        delay_s = job.options.get("delay_s", 0)
        words = _words(job)
        said = sum(len(_WORD.findall(message.content)) for message in job.messages)
        told = 0
        for _ in range(_repeat(job)):
            for word in words:
                # Also without a delay: a long echo must let the other jobs run.
                await asyncio.sleep(delay_s if isinstance(delay_s, int | float) else 0)
                yield [word]
                told += 1
        report.usage = {
            "prompt_tokens": said,
            "completion_tokens": told,
            "total_tokens": said + told,
        }


def _words(job: PromptJob) -> list[str]:
    by_user = [message.content for message in job.messages if message.role == "user"]
    return _WORD.findall(by_user[-1] if by_user else job.messages[-1].content)


def _repeat(job: PromptJob) -> int:
    repeat = job.options.get("repeat", 1)
    return repeat if isinstance(repeat, int) else 1


def _is_delay(value: JsonValue) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 <= value <= _MAX_DELAY_S  # NaN compares as false


def _is_count(value: JsonValue) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
