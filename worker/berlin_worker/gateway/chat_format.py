"""The OpenAI dialect of chats: a request as a job, events as chunks or one answer (pure).

Source: OpenAI's API reference, "Chat"; ``reasoning_content`` is what DeepSeek, vLLM and LiteLLM
name the deltas of reasoning.
"""

from dataclasses import dataclass, field
from typing import Any, Final

from berlin_worker.gateway.problems import Problem, invalid

Object = dict[str, Any]

_JOB_FIELDS: Final = frozenset(
    {
        "messages", "model", "metadata",
        "provider", "fallbacks", "proxy", "deadline_s", "first_chunk_timeout_s", "idle_timeout_s",
    }
)  # fmt: skip
"""Fields of the request that are fields of a job; those of the second line are ours."""
_REPLY_FIELDS: Final = frozenset({"stream", "stream_options", "n"})
FINISH_REASONS: Final = frozenset({"stop", "length", "tool_calls", "content_filter"})


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A request: its job, and how the answer is wanted."""

    job: Object
    stream: bool
    include_usage: bool


def parse_request(body: Object) -> ChatRequest:
    """Return the request in ``body``. Raises a 400; the job itself is checked by the client."""
    stream, options = body.get("stream"), body.get("stream_options")
    if stream not in {None, True, False}:
        raise invalid("stream", "must be true or false")
    if options is not None and not isinstance(options, dict):
        raise invalid("stream_options", "must be an object")
    if body.get("n") not in {None, 1}:
        raise invalid("n", "one answer to a request: send the request several times")
    job = {name: value for name, value in body.items() if name in _JOB_FIELDS and value is not None}
    job["options"] = {
        name: value
        for name, value in body.items()
        if name not in _JOB_FIELDS and name not in _REPLY_FIELDS and value is not None
    }
    # What has been sent to a client cannot be taken back, so a job never begins again after it.
    job["on_interrupt"] = "fail"
    return ChatRequest(job, bool(stream), bool((options or {}).get("include_usage")))


@dataclass(slots=True)
class Head:
    """What every chunk of an answer repeats. ``created`` is Unix time in seconds."""

    job_id: str
    model: str
    created: int

    def learn(self, event: Object) -> None:
        """Take the model that answers from ``started`` or ``completed``."""
        if event.get("type") in {"started", "completed"} and isinstance(event.get("model"), str):
            self.model = event["model"]

    def as_object(self, kind: str) -> Object:
        """Return the fields of an object of ``kind``."""
        return {
            "id": f"chatcmpl-{self.job_id}",
            "object": kind,
            "created": self.created,
            "model": self.model,
        }


def delta_of(event: Object) -> Object | None:
    """Return the delta of an event that carries a part of the answer, ``None`` for others."""
    match event.get("type"):
        case "chunk":
            return {"content": event["content"]}
        case "reasoning":
            return {"reasoning_content": event["content"]}
        case "tool_call":
            function: Object = {"arguments": event.get("arguments", "")}
            call: Object = {"index": event["index"], "function": function}
            if event.get("id") is not None:
                call |= {"id": event["id"], "type": "function"}
            if event.get("name") is not None:
                function["name"] = event["name"]
            return {"tool_calls": [call]}
    return None


def finish_reason(event: Object) -> str:
    """Return the reason of a ``completed`` event as OpenAI names it."""
    reason = event.get("finish_reason")
    return reason if reason in FINISH_REASONS else "stop"


class ChunkWriter:
    """Makes the chunks of one streamed answer from its events, in order."""

    def __init__(self, head: Head, *, include_usage: bool) -> None:
        self._head = head
        self._include_usage = include_usage
        self.begun = False
        """Whether a part of the answer has been sent: the job must not begin again then."""

    def chunks(self, event: Object) -> list[Object]:
        """Return the chunks for ``event``, which is no failure.

        Raises a 503 if the job begins again after a part of its answer was sent.
        """
        self._head.learn(event)
        if event.get("type") == "reset" and self.begun:
            raise Problem(
                503, "interrupted", "the job began again after a part of its answer was sent"
            )
        if (delta := delta_of(event)) is not None:
            if not self.begun:
                self.begun = True
                delta = {"role": "assistant"} | delta
            return [self._chunk(delta, None)]
        if event.get("type") == "completed":
            made = [self._chunk({} if self.begun else {"role": "assistant"}, finish_reason(event))]
            if self._include_usage:
                usage = self._head.as_object("chat.completion.chunk")
                made.append(usage | {"choices": [], "usage": event.get("usage")})
            return made
        return []

    def _chunk(self, delta: Object, reason: str | None) -> Object:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        chunk = self._head.as_object("chat.completion.chunk") | {"choices": [choice]}
        if self._include_usage:
            chunk["usage"] = None
        return chunk


@dataclass(slots=True)
class Answer:
    """The whole answer, put together from its events."""

    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: dict[int, Object] = field(default_factory=dict)

    def add(self, event: Object) -> None:
        """Take the next event."""
        match event.get("type"):
            case "reset":
                self.text.clear()
                self.reasoning.clear()
                self.calls.clear()
            case "chunk":
                self.text.append(event["content"])
            case "reasoning":
                self.reasoning.append(event["content"])
            case "tool_call":
                call = self.calls.setdefault(
                    event["index"], {"id": "", "name": "", "arguments": []}
                )
                call["id"] = event.get("id") or call["id"]
                call["name"] = event.get("name") or call["name"]
                call["arguments"].append(event.get("arguments", ""))

    def as_object(self, head: Head, completed: Object) -> Object:
        """Return the answer as a ``chat.completion``."""
        content = "".join(self.text)
        message: Object = {
            "role": "assistant",
            "content": content if content or not self.calls else None,
            "refusal": None,
        }
        if self.reasoning:
            message["reasoning_content"] = "".join(self.reasoning)
        if self.calls:
            message["tool_calls"] = [
                {
                    "id": call["id"],
                    "type": "function",
                    "function": {"name": call["name"], "arguments": "".join(call["arguments"])},
                }
                for _, call in sorted(self.calls.items())
            ]
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": finish_reason(completed),
        }
        made = head.as_object("chat.completion") | {"choices": [choice]}
        if completed.get("usage") is not None:
            made["usage"] = completed["usage"]
        return made
