"""A request for a response of OpenAI's, as a job (pure).

It is the subset by which background mode works. Source: OpenAI's API reference, "Responses".
"""

from dataclasses import dataclass
from typing import Any, Final

from berlin_worker.gateway.chat_format import Object
from berlin_worker.gateway.problems import invalid

_OURS: Final = frozenset(
    {
        "input", "instructions", "background", "stream", "store", "tools", "max_output_tokens",
        "metadata", "model", "provider", "fallbacks",
    }
)  # fmt: skip
_UNSUPPORTED: Final = ("previous_response_id", "conversation", "prompt")
_PARTS: Final = {"input_text": "text", "output_text": "text", "text": "text"}


@dataclass(frozen=True, slots=True)
class ResponseRequest:
    """A request: its job, and how the answer is wanted."""

    job: Object
    background: bool
    stream: bool


def parse_request(body: Object) -> ResponseRequest:
    """Return the request in ``body``. Raises a 400; the job itself is checked by the client."""
    for name in _UNSUPPORTED:
        if body.get(name) is not None:
            raise invalid(name, "is not supported: send the whole conversation as input")
    for name in ("background", "stream", "store"):
        if body.get(name) not in {None, True, False}:
            raise invalid(name, "must be true or false")
    messages: list[Object] = []
    if (instructions := body.get("instructions")) is not None:
        messages.append({"role": "system", "content": instructions})
    messages += _messages(body.get("input"))
    options = {
        name: value for name, value in body.items() if name not in _OURS and value is not None
    }
    for name in ("temperature", "top_p"):
        if name in options and not isinstance(options[name], int | float):
            raise invalid(name, "must be a number")
    if (limit := body.get("max_output_tokens")) is not None:
        options["max_tokens"] = limit
    if (tools := body.get("tools")) is not None:
        options["tools"] = _tools(tools)
    job = {
        name: body[name]
        for name in ("model", "metadata", "provider", "fallbacks")
        if body.get(name) is not None
    }
    job |= {"messages": messages, "options": options, "on_interrupt": "fail"}
    return ResponseRequest(job, bool(body.get("background")), bool(body.get("stream")))


def _messages(given: Any) -> list[Object]:
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    if not isinstance(given, list) or not all(isinstance(item, dict) for item in given):
        raise invalid("input", "must be a string or an array of items")
    return [_message(item) for item in given]


def _message(item: Object) -> Object:
    match item.get("type", "message"):
        case "message":
            content = item.get("content")
            if isinstance(content, list):
                content = [_part(part) for part in content]
            return {"role": item.get("role"), "content": content}
        case "function_call":
            function = {"name": item.get("name"), "arguments": item.get("arguments")}
            call = {"id": item.get("call_id"), "type": "function", "function": function}
            return {"role": "assistant", "content": None, "tool_calls": [call]}
        case "function_call_output":
            return {
                "role": "tool",
                "tool_call_id": item.get("call_id"),
                "content": item.get("output"),
            }
    raise invalid("input", "holds an item of a type that is not supported")


def _part(part: Any) -> Object:
    if not isinstance(part, dict):
        raise invalid("input", "holds a content part that is no object")
    if part.get("type") in _PARTS:
        return {"type": "text", "text": part.get("text")}
    if part.get("type") == "input_image" and isinstance(part.get("image_url"), str):
        return {"type": "image_url", "image_url": {"url": part["image_url"]}}
    raise invalid("input", "holds a content part of a type that is not supported")


def _tools(tools: Any) -> list[Object]:
    if not isinstance(tools, list) or any(
        not isinstance(tool, dict) or tool.get("type") != "function" for tool in tools
    ):
        raise invalid("tools", "must be an array of functions: others are not supported")
    return [
        {"type": "function", "function": {n: v for n, v in tool.items() if n != "type"}}
        for tool in tools
    ]
