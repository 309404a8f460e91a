"""The OpenAI dialect of chats: a request as a job, events as chunks or one answer (pure).

Source: OpenAI's API reference, "Chat". DeepSeek, vLLM and LiteLLM name the deltas of reasoning
``reasoning_content``.
"""

from dataclasses import dataclass, field
from typing import Any, Final

from berlin_worker.gateway.problems import Problem, invalid

Object = dict[str, Any]

OWN_FIELDS: Final = frozenset(
    {"provider", "fallbacks", "proxy", "deadline_s", "first_chunk_timeout_s", "idle_timeout_s"}
)
"""Fields of a job that OpenAI does not have, and that a request may carry beside its own."""
_JOB_FIELDS: Final = OWN_FIELDS | {"messages", "model", "metadata"}
_REPLY_FIELDS: Final = frozenset({"stream", "stream_options", "n"})
_SET_BY_GATEWAY: Final = ("tenant", "job_id", "options", "on_interrupt")
_NOT_CARRIED: Final = {
    "logprobs": "is not supported: the events of a job have no place for it",
    "top_logprobs": "is not supported: the events of a job have no place for it",
    "audio": "is not supported: the events of a job have no place for it",
    "functions": "is not supported: send tools",
    "function_call": "is not supported: send tool_choice",
}
"""Options whose effect on the answer would be lost without an error."""
FINISH_REASONS: Final = frozenset({"stop", "length", "tool_calls", "content_filter"})


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A request: its job, and the form of the answer."""

    job: Object
    stream: bool
    include_usage: bool


def parse_request(body: Object) -> ChatRequest:
    """Return the request in ``body``. Raises a 400; the job itself is checked by the client."""
    refuse_unsupported(body)
    stream, options = flag(body, "stream"), body.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise invalid("stream_options", "must be an object")
    n = body.get("n")
    if n is not None and (isinstance(n, bool) or n != 1):
        raise invalid("n", "must be 1: send the request several times")
    job = {name: value for name, value in body.items() if name in _JOB_FIELDS and value is not None}
    job["options"] = {
        name: value
        for name, value in body.items()
        if name not in _JOB_FIELDS and name not in _REPLY_FIELDS and value is not None
    }
    # Text that a client has received cannot be taken back, so the job must not begin again.
    job["on_interrupt"] = "fail"
    return ChatRequest(job, stream, flag(options or {}, "include_usage"))


def flag(body: Object, name: str) -> bool:
    """Return a field that is true, false or absent. Raises a 400 for any other value."""
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise invalid(name, "must be true or false")
    return bool(value)


def refuse_unsupported(body: Object) -> None:
    """Raise a 400 for a field that the gateway sets itself, or that no answer would reflect."""
    for name in _SET_BY_GATEWAY:
        if name in body:
            raise invalid(name, "is not a field of this request: POST /v1/jobs takes whole jobs")
    for name, message in _NOT_CARRIED.items():
        if body.get(name) not in (None, False):
            raise invalid(name, message)


@dataclass(slots=True)
class Head:
    """The fields that each chunk of an answer repeats. ``created`` is Unix time in seconds."""

    job_id: str
    model: str
    created: int

    def learn(self, event: Object) -> None:
        """Set the model to the one that a ``started`` or ``completed`` event names."""
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
        """Return the chunks for ``event``; none for a failure.

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
