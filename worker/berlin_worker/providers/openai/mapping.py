"""One answer's chunks, decoded JSON, to deltas, finish reason and usage. Pure."""

from collections.abc import Callable
from typing import Any, Final

from berlin_schemas import ErrorCode
from berlin_worker.errors import JobError
from berlin_worker.providers.deltas import Delta, ReasoningDelta
from berlin_worker.providers.limits import LONE_HALF, join_halves
from berlin_worker.providers.openai.tool_calls import ToolCalls, new_id

_REASONS: Final = {
    "function_call": "tool_calls",
    "tool_call": "tool_calls",
    "tool_use": "tool_calls",  # Anthropic's, behind proxies
    "max_tokens": "length",
    "max_output_tokens": "length",
    "model_context_window_exceeded": "length",
    "model_length": "length",  # Mistral
    "blocklist": "content_filter",  # Google's, to "spii"
    "prohibited_content": "content_filter",
    "recitation": "content_filter",
    "safety": "content_filter",
    "spii": "content_filter",
    "guardrail_intervened": "content_filter",  # Bedrock
    "refusal": "content_filter",
    "sensitive": "content_filter",  # Zhipu
}
"""Finish reasons of servers, in small letters: the protocol's reason for each."""
_ABORTED: Final = frozenset(
    {
        "abort",  # vLLM, SGLang
        "error",  # OpenRouter
        "insufficient_system_resource",  # DeepSeek
        "malformed_function_call",  # Google
        "network_error",  # Zhipu
    }
)
"""Reasons of an answer that the server gave up."""
_PART_KEYS: Final = ("text", "content")
_DEPTH: Final = 4
"""How deep a content in parts may be nested: servers send two levels."""


class ChunkMapper:
    """Maps the chunks of one answer. Text and reasoning always encode as UTF-8."""

    def __init__(self, make_id: Callable[[], str] = new_id) -> None:
        self._tool_calls = ToolCalls(make_id)
        self._choice: object = None
        self.text_half = ""
        """Half a surrogate pair that waits for the next text."""
        self.reasoning_half = ""
        self.finish_reason: str | None = None
        """The reason of the answer's end, as the contract spells it; ``None``: none so far."""
        self.usage: dict[str, Any] | None = None
        """The last that was reported."""

    def map(self, chunk: dict[str, Any]) -> list[Delta]:
        """Return the deltas of a chunk: reasoning, then text, then tool calls.

        Raises ``JobError``: ``bad_chunk`` for what is no chunk, ``upstream_error`` if the server
        has given the answer up.
        """
        if chunk.get("usage") or "x_groq" in chunk:
            self._take_usage(chunk)
        deltas: list[Delta] = []
        for choice in _objects(chunk.get("choices"), "choices"):
            if self._is_ours(choice.get("index")):
                self._take_choice(choice, deltas)
        return deltas

    def finish(self) -> list[Delta]:
        """Return the deltas that the end of the answer completes."""
        deltas: list[Delta] = [ReasoningDelta(LONE_HALF)] if self.reasoning_half else []
        if self.text_half:
            deltas.append(LONE_HALF)
        self.reasoning_half = self.text_half = ""
        return [*deltas, *self._tool_calls.finish()]

    def text(self, content: str) -> str:
        """Return a text delta, possibly empty; half a surrogate pair waits for the next delta."""
        text, self.text_half = join_halves(self.text_half, content)
        return text

    def reasoning(self, content: str) -> str:
        """Return the content of a reasoning delta as :meth:`text` does."""
        text, self.reasoning_half = join_halves(self.reasoning_half, content)
        return text

    def _take_usage(self, holder: dict[str, Any]) -> None:
        usage = holder.get("usage")
        if not usage and isinstance(groq := holder.get("x_groq"), dict):
            usage = groq.get("usage")
        if isinstance(usage, dict) and usage:
            self.usage = usage

    def _is_ours(self, index: object) -> bool:
        # One answer was requested. It may have any index, and keeps it.
        if index is None:
            return True
        if self._choice is None:
            self._choice = index
        return index == self._choice

    def _take_choice(self, choice: dict[str, Any], deltas: list[Delta]) -> None:
        if "usage" in choice:  # Moonshot
            self._take_usage(choice)
        # Some servers have no stream for some requests: the whole message comes as one chunk.
        # Others have the text of the older protocol, completions.
        delta = choice["delta"] if "delta" in choice else choice.get("message")
        if delta is None and "delta" not in choice:
            delta = {"content": choice.get("text")}
        if isinstance(delta, dict):
            self._take_delta(delta, deltas)
        elif delta is not None:
            raise bad_part("delta")
        reason = choice.get("finish_reason")
        if reason and isinstance(reason, str):
            reason = reason.lower().replace("-", "_")  # Google's have capitals
            if reason in _ABORTED:
                message = f"the upstream has given the answer up (finish_reason {reason})"
                raise JobError(ErrorCode.UPSTREAM_ERROR, message, retryable=True)
            self.finish_reason = _REASONS.get(reason, reason)

    def _take_delta(self, delta: dict[str, Any], deltas: list[Delta]) -> None:
        # A server that sends both names sends one text.
        reasoning = delta.get("reasoning_content") or delta.get("reasoning")
        content = delta.get("content")
        if isinstance(content, list | dict):
            thought, content = _of_parts(content, "content")
            reasoning = reasoning or thought
        if isinstance(reasoning, list | dict):
            reasoning = "".join(_of_parts(reasoning, "reasoning"))
        if reasoning and (text := self.reasoning(_string(reasoning, "reasoning"))):
            deltas.append(ReasoningDelta(text))
        if content and (text := self.text(_string(content, "content"))):
            deltas.append(text)
        refusal = delta.get("refusal")
        if refusal and (text := self.text(_string(refusal, "refusal"))):
            deltas.append(text)
        calls = delta.get("tool_calls")
        if not calls and isinstance(call := delta.get("function_call"), dict):
            calls = [{"index": 0, "function": call}]
        if calls:
            deltas += self._tool_calls.add(_objects(calls, "tool_calls"))


def bad_part(name: str) -> JobError:
    """Return the error of a chunk with a value in ``name`` that the protocol does not have."""
    message = f"the upstream sent a chunk whose {name} cannot be read"
    return JobError(ErrorCode.BAD_CHUNK, message)


def _objects(value: object, name: str) -> list[dict[str, Any]]:
    """Return the objects of a list, or the one object in place of a list."""
    if value is None:
        return []
    objects: list[dict[str, Any]] = []
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, dict):
            objects.append(item)
        elif item is not None:
            raise bad_part(name)
    return objects


def _string(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise bad_part(name)
    return value


def _of_parts(parts: list[Any] | dict[str, Any], name: str, depth: int = _DEPTH) -> tuple[str, str]:
    """Return reasoning and text of a content in parts, as Mistral's reasoning models send it."""
    reasoning, text = "", ""
    for part in parts if isinstance(parts, list) else [parts]:
        if isinstance(part, str):
            text += part
            continue
        if not isinstance(part, dict):
            raise bad_part(name)
        thinking = part.get("thinking")
        if isinstance(thinking, list):
            if not depth:
                raise bad_part(name)
            reasoning += _of_parts(thinking, name, depth - 1)[1]
        elif isinstance(thinking, str):
            reasoning += thinking
        else:
            text += next((part[key] for key in _PART_KEYS if isinstance(part.get(key), str)), "")
    return reasoning, text
