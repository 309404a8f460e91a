"""The OpenAI provider of the tests: jobs for it, and a reader of its replies."""

from collections.abc import Callable
from contextlib import aclosing
from typing import Any

from berlin_schemas import PromptJob
from berlin_worker.errors import JobError
from berlin_worker.providers.base import Provider, Report
from berlin_worker.providers.deltas import Delta
from berlin_worker.providers.openai import OpenAIProvider

KEY = "sk-secret-0123456789-abcdef"
REPLY = "one two three four"

Make = Callable[..., OpenAIProvider]


def job(prompt: Any = "Hello", **fields: Any) -> PromptJob:
    messages = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
    return PromptJob(messages=messages, provider="openai", model="stand-in", **fields)


async def read(
    provider: Provider, prompt: Any = "Hello", report: Report | None = None, **fields: Any
) -> tuple[list[Delta], JobError | None]:
    """Return the deltas up to the end or the error, and the error."""
    found: list[Delta] = []
    try:
        async with aclosing(provider.stream(job(prompt, **fields), report or Report())) as stream:
            async for deltas in stream:
                assert deltas
                found += deltas
    except JobError as error:
        return found, error
    return found, None
