"""What the official `openai` package of Python must find at a gateway; raises ``AssertionError``.

``tests/gateway`` has the calls that need no upstream of OpenAI's kind; `node/check_openai.mjs` has
all of them for Node.
"""

import json
from collections.abc import Callable
from typing import Any, Final

import httpx2
import openai
import pytest

from tests.examples.conftest import MODEL, REPLY
from tests.support.workers import wait_until

TOOLS: Final[list[Any]] = [
    {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
]


def user(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def has_both_calls(message: Any) -> None:
    assert len(message.tool_calls) == 2
    for call in message.tool_calls:
        assert json.loads(call.function.arguments) == {"place": "Berlin"}


def models(client: openai.OpenAI) -> None:
    assert MODEL in [each.id for each in client.models.list()]


def tools(client: openai.OpenAI) -> None:
    messages = user("Where? [[tool_calls:2]]")
    answer = client.chat.completions.create(model=MODEL, messages=messages, tools=TOOLS)
    assert answer.choices[0].finish_reason == "tool_calls"
    has_both_calls(answer.choices[0].message)


def streamed_tools(client: openai.OpenAI) -> None:
    messages = user("Where? [[tool_calls:2]]")
    with client.chat.completions.stream(model=MODEL, messages=messages, tools=TOOLS) as stream:
        has_both_calls(stream.get_final_completion().choices[0].message)


def retries(client: openai.OpenAI) -> None:
    """Check that a failed job is not paid twice, and that an unavailable gateway is asked again."""
    statuses: list[int] = []
    unavailable = [True]

    class Transport(httpx2.HTTPTransport):
        def handle_request(self, request: httpx2.Request) -> httpx2.Response:
            if unavailable and unavailable.pop():
                reply = httpx2.Response(503, headers={"retry-after-ms": "1"})
            else:
                reply = super().handle_request(request)
            statuses.append(reply.status_code)
            return reply

    with httpx2.Client(transport=Transport()) as http:
        own = client.with_options(http_client=http)
        answer = own.chat.completions.create(model=MODEL, messages=user("Hello"))
        assert answer.choices[0].message.content == REPLY
        assert statuses == [503, 200]
        with pytest.raises(openai.RateLimitError, match="quota"):
            own.chat.completions.create(model=MODEL, messages=user("[[quota]]"))
    assert statuses == [503, 200, 429]


def abort(client: openai.OpenAI) -> None:
    """Check that a caller who goes away in the middle of a stream cancels the job."""
    raw = client.chat.completions.with_raw_response.create(
        model=MODEL, messages=user("[[stall:1]]"), stream=True
    )
    job = raw.headers["x-job-id"]
    with raw.parse() as stream:
        assert any(chunk.choices[0].delta.content for chunk in stream)

    def status() -> str:
        return str(httpx2.get(f"{client.base_url}jobs/{job}").json()["status"])

    wait_until(lambda: status() == "cancelled", "the job is cancelled")


CHECKS: Final[tuple[Callable[[openai.OpenAI], None], ...]] = (
    models,
    tools,
    streamed_tools,
    retries,
    abort,
)
