"""Replies of the stand-in for OpenAI-compatible servers, as server-sent events."""

import itertools
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from berlin_worker.embedded.faults import Plan

_TOOL_PIECES: Final = ('{"place"', ': "Berlin"}')
_BODIES: Final[Mapping[str, Mapping[str, Any]]] = {
    "quota": {
        "message": "You exceeded your current quota, please check your plan and billing details.",
        "type": "insufficient_quota",
        "param": None,
        "code": "insufficient_quota",
    },
    "context": {
        "message": "This model's maximum context length is 8192 tokens.",
        "type": "invalid_request_error",
        "param": "messages",
        "code": "context_length_exceeded",
    },
    "usage": {
        "message": "Unknown parameter: 'stream_options'.",
        "type": "invalid_request_error",
        "param": "stream_options",
        "code": "unknown_parameter",
    },
}


def error_body(name: str, message: str, kind: str = "server_error") -> dict[str, Any]:
    """Return the error body of that name, or else one with ``message``."""
    found = _BODIES.get(name, {"message": message, "type": kind, "param": None, "code": None})
    return {"error": dict(found)}


def data(value: Any) -> bytes:
    """Return one event."""
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


class Answer:
    """The events of one answer; ``is_asked``: the client asks for the usage."""

    def __init__(self, plan: Plan, number: int, model: str, prompt: str, *, is_asked: bool) -> None:
        self._plan = plan
        self._is_asked = is_asked
        self._head = {
            "id": f"chatcmpl-{number:032x}",
            "object": "chat.completion.chunk",
            "created": 1764412345,
            "model": model,
            "system_fingerprint": "fp_stand_in",
        }
        words = len(plan.chunks) + plan.reasoning + plan.tool_calls
        asked = len(prompt.split())
        self._usage = {
            "prompt_tokens": asked,
            "completion_tokens": words,
            "total_tokens": asked + words,
            "completion_tokens_details": {"reasoning_tokens": plan.reasoning},
        }

    def events(self) -> Iterator[bytes]:
        """Yield the events as bytes, each in one piece."""
        for event in self._events():
            yield b": keep-alive\n\n" + event if self._plan.comments else event

    def _events(self) -> Iterator[bytes]:
        plan = self._plan
        if plan.raw is not None:
            yield plan.raw
            return
        yield self._chunk({"role": "assistant", "content": ""})
        for number in range(plan.reasoning):
            yield self._chunk({"reasoning_content": f"thought {number} "})
        texts = [self._chunk({"content": chunk}) for chunk in plan.chunks]
        yield from itertools.cycle(texts) if plan.end == "endless" else texts
        if plan.end == "garbage":
            yield b"data: <html>502 Bad Gateway</html>\n\n"
        elif plan.end == "error":
            error = {"message": "the model has stopped", "code": plan.error_status}
            yield data({"error": error})
        elif plan.end == "half":
            yield self._chunk({"content": "cut off"})[:-20]
        elif plan.end in {"end", "unfinished"}:
            yield from self._end()

    def _end(self) -> Iterator[bytes]:
        plan = self._plan
        for index in range(plan.tool_calls):
            function = {"name": "weather", "arguments": ""}
            call = {"index": index, "id": f"call_{index}", "type": "function", "function": function}
            yield self._chunk({"tool_calls": [call]})
            for piece in _TOOL_PIECES:
                later = {"index": index, "function": {"arguments": piece}}
                yield self._chunk({"tool_calls": [later]})
        last: dict[str, Any] = {"usage": self._usage} if plan.usage == "inside" else {}
        yield self._chunk({}, plan.finish_reason or "stop", **last)
        if plan.usage == "asked" and self._is_asked:
            yield data({**self._head, "choices": [], "usage": self._usage})
        if plan.is_marked:
            yield b"data: [DONE]\n\n"

    def _chunk(self, delta: dict[str, Any], reason: str | None = None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return data({**self._head, "choices": [choice], "usage": None, **more})
