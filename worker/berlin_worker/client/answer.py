"""The answer of a job, put together from its events (pure)."""

import json
from dataclasses import dataclass, field
from typing import Any

from berlin_schemas import Chunk, Event, Reasoning, Reset, ToolCall


@dataclass(frozen=True, slots=True)
class AssembledToolCall:
    """A whole tool call; ``arguments`` is JSON text as the model has written it."""

    id: str
    name: str
    arguments: str

    @property
    def is_complete(self) -> bool:
        """Whether ``arguments`` is JSON: a call that was cut is not."""
        try:
            json.loads(self.arguments)
        except (ValueError, RecursionError):
            return False
        return True

    def as_message_part(self) -> dict[str, Any]:
        """Return the call as an entry of ``tool_calls`` of the next job's assistant message."""
        function = {"name": self.name, "arguments": self.arguments}
        return {"id": self.id, "type": "function", "function": function}


@dataclass(slots=True)
class _Call:
    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)


class Answer:
    """The answer that the events of a job add up to; a ``reset`` discards the earlier ones."""

    __slots__ = ("_calls", "_reasoning", "_text")

    def __init__(self) -> None:
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: dict[int, _Call] = {}

    def add(self, event: Event) -> None:
        """Take the next event; events of other types change nothing."""
        match event:
            case Chunk():
                self._text.append(event.content)
            case Reasoning():
                self._reasoning.append(event.content)
            case ToolCall():
                call = self._calls.setdefault(event.index, _Call())
                call.id = call.id or event.id or ""
                call.name = call.name or event.name or ""
                call.arguments.append(event.arguments)
            case Reset():
                self._text.clear()
                self._reasoning.clear()
                self._calls.clear()

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._text)

    @property
    def reasoning(self) -> str:
        """The reasoning so far."""
        return "".join(self._reasoning)

    @property
    def tool_calls(self) -> dict[int, AssembledToolCall]:
        """The tool calls so far, in the order of their indexes."""
        return {
            index: AssembledToolCall(call.id, call.name, "".join(call.arguments))
            for index, call in sorted(self._calls.items())
        }
