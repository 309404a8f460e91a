"""The events of OpenAI's Responses, made from those of a job (pure).

Source: OpenAI's API reference, "Responses" and "Streaming events". The events of a response follow
from those of its job alone, and so do their sequence numbers: ``starting_after`` means the same
event at every gateway.
"""

from dataclasses import dataclass, field
from typing import Any, Final

from berlin_worker.gateway.chat_format import Object
from berlin_worker.gateway.problems import of_terminal

PREFIX: Final = "resp_"


@dataclass(slots=True)
class _Item:
    """One item of the output: a message, a reasoning or a function call."""

    value: Object
    pieces: list[str] = field(default_factory=list)


class ResponseWriter:
    """Makes the events of a response from those of its job, from the first on."""

    def __init__(
        self, job_id: str, model: str, created: int, metadata: Object, *, background: bool = True
    ) -> None:
        self._id = PREFIX + job_id
        self._model = model
        self._created = created
        self._metadata = metadata
        self._background = background
        self._number = 0
        self._items: list[_Item] = []
        self._first = 0
        """The first item of this attempt: those before it are discarded."""
        self._calls: dict[int, int] = {}
        self._open: int | None = None
        self._status = "queued"
        self._error: Object | None = None
        self._usage: Object | None = None
        self._incomplete: Object | None = None

    def created(self) -> list[Object]:
        """Return the event that comes before those of the job."""
        return [self._event("response.created", response=self.response())]

    def events(self, event: Object) -> list[Object]:
        """Return the events for the next event of the job."""
        match event.get("type"):
            case "started":
                self._model = event.get("model") or self._model
                self._status = "in_progress"
                return [self._event("response.in_progress", response=self.response())]
            case "reset":
                return self._reset()
            case "chunk":
                return self._delta("message", event["content"])
            case "reasoning":
                return self._delta("reasoning", event["content"])
            case "tool_call":
                return self._tool_call(event)
            case "completed" | "failed" | "cancelled":
                return self._end(event)
        return []

    def response(self) -> Object:
        """Return the response as it is now."""
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "status": self._status,
            "background": self._background,
            "error": self._error,
            "incomplete_details": self._incomplete,
            "instructions": None,
            "metadata": self._metadata,
            "model": self._model,
            "output": [self._shown(item) for item in self._items[self._first :]],
            "parallel_tool_calls": True,
            "temperature": None,
            "tool_choice": "auto",
            "tools": [],
            "top_p": None,
            "usage": self._usage,
        }

    def _event(self, kind: str, **fields: Any) -> Object:
        made = {"type": kind, "sequence_number": self._number, **fields}
        self._number += 1
        return made

    def _delta(self, kind: str, text: str) -> list[Object]:
        made: list[Object] = []
        if self._open is None or self._items[self._open].value["type"] != kind:
            made += self._close()
            made += self._add(_blank(kind, f"{self._id}_{len(self._items)}"))
        place = len(self._items) - 1
        item = self._items[place]
        item.pieces.append(text)
        name = (
            "response.output_text.delta" if kind == "message" else "response.reasoning_text.delta"
        )
        fields = {"item_id": item.value["id"], "output_index": place, "content_index": 0}
        if kind == "message":
            fields["logprobs"] = []
        return [*made, self._event(name, **fields, delta=text)]

    def _tool_call(self, event: Object) -> list[Object]:
        made: list[Object] = []
        index = event["index"]
        if index not in self._calls:
            made += self._close()
            value = _blank("function_call", f"{self._id}_{len(self._items)}")
            value |= {"call_id": event.get("id") or "", "name": event.get("name") or ""}
            self._calls[index] = len(self._items)
            made += self._add(value)
        place = self._calls[index]
        item = self._items[place]
        if not event.get("arguments"):
            return made
        item.pieces.append(event["arguments"])
        delta = self._event(
            "response.function_call_arguments.delta",
            item_id=item.value["id"],
            output_index=place,
            delta=event["arguments"],
        )
        return [*made, delta]

    def _add(self, value: Object) -> list[Object]:
        self._items.append(_Item(value))
        place = self._open = len(self._items) - 1
        made = [
            self._event(
                "response.output_item.added", output_index=place, item=self._shown(self._items[-1])
            )
        ]
        if value["type"] == "message":
            part = {"type": "output_text", "text": "", "annotations": []}
            made.append(self._part("response.content_part.added", place, part))
        return made

    def _part(self, kind: str, place: int, part: Object) -> Object:
        item_id = self._items[place].value["id"]
        return self._event(kind, item_id=item_id, output_index=place, content_index=0, part=part)

    def _reset(self) -> list[Object]:
        """Discard the items of earlier attempts. What was sent stays numbered."""
        made = self._close("incomplete")
        self._first = len(self._items)
        self._calls.clear()
        self._status = "in_progress"
        return [*made, self._event("response.in_progress", response=self.response())]

    def _close(self, status: str = "completed") -> list[Object]:
        """End the item that takes deltas."""
        place, self._open = self._open, None
        if place is None:
            return []
        item = self._items[place]
        item.value["status"] = status
        text = "".join(item.pieces)
        where = {"item_id": item.value["id"], "output_index": place}
        made: list[Object] = []
        match item.value["type"]:
            case "message":
                done = {"content_index": 0, "text": text, "logprobs": []}
                made.append(self._event("response.output_text.done", **where, **done))
                part = {"type": "output_text", "text": text, "annotations": []}
                made.append(self._part("response.content_part.done", place, part))
            case "reasoning":
                done = {"content_index": 0, "text": text}
                made.append(self._event("response.reasoning_text.done", **where, **done))
            case _:
                done = {"arguments": text, "name": item.value["name"]}
                made.append(self._event("response.function_call_arguments.done", **where, **done))
        shown = self._shown(item)
        made.append(self._event("response.output_item.done", output_index=place, item=shown))
        return made

    def _end(self, event: Object) -> list[Object]:
        made = self._close()
        kind = event["type"]
        self._usage = _usage(event.get("usage"))
        self._status = kind
        if kind == "failed":
            problem = of_terminal(event)
            self._error = {"code": problem.as_object()["code"], "message": problem.message}
        elif kind == "completed" and event.get("finish_reason") in {"length", "content_filter"}:
            self._status = "incomplete"
            reason = event["finish_reason"]
            shown = "max_output_tokens" if reason == "length" else reason
            self._incomplete = {"reason": shown}
        return [*made, self._event(f"response.{self._status}", response=self.response())]

    @staticmethod
    def _shown(item: _Item) -> Object:
        text = "".join(item.pieces)
        match item.value["type"]:
            case "message":
                part = {"type": "output_text", "text": text, "annotations": []}
                return item.value | {"content": [part] if text else []}
            case "reasoning":
                part = {"type": "reasoning_text", "text": text}
                return item.value | {"content": [part] if text else []}
        return item.value | {"arguments": text}


def _blank(kind: str, item_id: str) -> Object:
    value: Object = {"id": item_id, "type": kind, "status": "in_progress"}
    if kind == "message":
        value |= {"role": "assistant"}
    if kind == "reasoning":
        value |= {"summary": []}
    return value


def _usage(usage: Any) -> Object | None:
    """Return the usage under the field names of Responses."""
    if not isinstance(usage, dict):
        return None
    sent, made = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    cached, reasoning = usage.get("prompt_tokens_details"), usage.get("completion_tokens_details")
    return {
        "input_tokens": sent,
        "input_tokens_details": {"cached_tokens": _detail(cached, "cached_tokens")},
        "output_tokens": made,
        "output_tokens_details": {"reasoning_tokens": _detail(reasoning, "reasoning_tokens")},
        "total_tokens": _count(usage.get("total_tokens")) or sent + made,
    }


def _detail(details: Any, name: str) -> int:
    return _count(details.get(name)) if isinstance(details, dict) else 0


def _count(value: Any) -> int:
    """Return a number of tokens; an upstream may report anything, which counts as 0."""
    return value if type(value) is int else 0
