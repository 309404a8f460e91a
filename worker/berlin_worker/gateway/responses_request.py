"""A request for a response of OpenAI's, as a job (pure).

It covers the subset that background mode needs. Source: OpenAI's API reference, "Responses".
"""

from dataclasses import dataclass
from typing import Any, Final

from berlin_worker.gateway.chat_format import OWN_FIELDS, Object, flag, refuse_unsupported
from berlin_worker.gateway.problems import invalid

_CONVERTED: Final = OWN_FIELDS | {
    "input", "instructions", "background", "stream", "store", "tools", "tool_choice", "text",
    "reasoning", "max_output_tokens", "metadata", "model",
    "include", "truncation", "stream_options",
}  # fmt: skip
"""Fields that do not go to the upstream as they are; those of the last line have no effect."""
_UNSUPPORTED: Final = ("previous_response_id", "conversation", "prompt")
_TEXT_PARTS: Final = frozenset({"input_text", "output_text", "text"})


@dataclass(frozen=True, slots=True)
class ResponseRequest:
    """A request: its job, and the form of the answer."""

    job: Object
    background: bool
    stream: bool


def parse_request(body: Object) -> ResponseRequest:
    """Return the request in ``body``. Raises a 400; the job itself is checked by the client."""
    for name in _UNSUPPORTED:
        if body.get(name) is not None:
            raise invalid(name, "is not supported: send the whole conversation as input")
    refuse_unsupported(body)
    background, stream, _ = (flag(body, name) for name in ("background", "stream", "store"))
    messages: list[Object] = []
    if (instructions := body.get("instructions")) is not None:
        messages.append({"role": "system", "content": instructions})
    messages += _messages(body.get("input"))
    options = {
        name: value for name, value in body.items() if name not in _CONVERTED and value is not None
    } | _converted(body)
    for name in ("temperature", "top_p"):
        if name in options and not isinstance(options[name], int | float):
            raise invalid(name, "must be a number")
    job = {
        name: body[name]
        for name in sorted(OWN_FIELDS | {"model", "metadata"})
        if body.get(name) is not None
    }
    job |= {"messages": messages, "options": options, "on_interrupt": "fail"}
    return ResponseRequest(job, background, stream)


def _converted(body: Object) -> Object:
    """Return the options that chats have under other names."""
    made: Object = {}
    if (limit := body.get("max_output_tokens")) is not None:
        made["max_tokens"] = limit
    if (tools := body.get("tools")) is not None:
        made["tools"] = _tools(tools)
    if (choice := body.get("tool_choice")) is not None:
        made["tool_choice"] = _tool_choice(choice)
    text, reasoning = _object(body, "text"), _object(body, "reasoning")
    if (form := text.get("format")) is not None:
        made["response_format"] = _response_format(form)
    if text.get("verbosity") is not None:
        made["verbosity"] = text["verbosity"]
    if reasoning.get("effort") is not None:
        made["reasoning_effort"] = reasoning["effort"]
    return made


def _object(body: Object, name: str) -> Object:
    value = body.get(name)
    if value is not None and not isinstance(value, dict):
        raise invalid(name, "must be an object")
    return value or {}


def _tool_choice(choice: Any) -> Any:
    if isinstance(choice, str):
        return choice
    if isinstance(choice, dict) and choice.get("type") == "function":
        return {"type": "function", "function": {"name": choice.get("name")}}
    raise invalid("tool_choice", "must be a string, or name a function")


def _response_format(form: Any) -> Object:
    if not isinstance(form, dict):
        raise invalid("text", "its format must be an object")
    if form.get("type") != "json_schema":
        return form
    schema = {name: value for name, value in form.items() if name != "type"}
    return {"type": "json_schema", "json_schema": schema}


def _messages(given: Any) -> list[Object]:
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    if not isinstance(given, list) or not all(isinstance(item, dict) for item in given):
        raise invalid("input", "must be a string or an array of items")
    messages: list[Object] = []
    for item in given:
        if item.get("type") == "reasoning":
            continue  # an item of an earlier output, which chats do not accept
        message = _message(item)
        if "tool_calls" in message and messages and "tool_calls" in messages[-1]:
            # Parallel calls are one message: the results of all must follow it.
            messages[-1]["tool_calls"] += message["tool_calls"]
        else:
            messages.append(message)
    return messages


def _message(item: Object) -> Object:
    match item.get("type", "message"):
        case "message":
            return {"role": item.get("role"), "content": _content(item.get("content"))}
        case "function_call":
            function = {"name": item.get("name"), "arguments": item.get("arguments")}
            call = {"id": item.get("call_id"), "type": "function", "function": function}
            return {"role": "assistant", "content": None, "tool_calls": [call]}
        case "function_call_output":
            return {
                "role": "tool",
                "tool_call_id": item.get("call_id"),
                "content": _content(item.get("output")),
            }
    raise invalid("input", "holds an item of a type that is not supported")


def _content(content: Any) -> Any:
    return [_part(part) for part in content] if isinstance(content, list) else content


def _part(part: Any) -> Object:
    if not isinstance(part, dict):
        raise invalid("input", "holds a content part that is no object")
    kind = part.get("type")
    if isinstance(kind, str) and kind in _TEXT_PARTS:
        return {"type": "text", "text": part.get("text")}
    if kind == "input_image" and isinstance(part.get("image_url"), str):
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
