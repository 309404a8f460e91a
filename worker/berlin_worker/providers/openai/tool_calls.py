"""The pieces of an answer's tool calls, each to the call it belongs to. Pure.

By the protocol a call has an index, and its first piece an ID and a name. Servers leave out,
repeat or renumber each of them, so a piece goes

1. to the call that has its ID. Some servers give one ID to all calls. So a piece begins a new call,
   which gets an ID of ours, if it has another name, or another index while that call is complete.
   A piece that repeats a complete call is dropped;
2. with an unknown ID to a new call. But a piece without a name goes to the call of its index:
   some servers make a new ID for each piece;
3. without an ID to the call of its index. But a piece with a name begins a new call if that call
   has another name or is complete: some servers give every call the index 0;
4. without both to a new call if it has a name, else to the latest call.
"""

import json
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from pydantic_core import from_json

from berlin_worker.providers.deltas import ToolCallDelta
from berlin_worker.providers.limits import LONE_HALF, join_halves

_compact: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def new_id() -> str:
    """Return an ID for a call of a server that gives none."""
    return f"call_{secrets.token_hex(12)}"


@dataclass(slots=True)
class _Call:
    index: int
    id: str = ""
    given_id: str = ""
    """The ID from the server, which other calls may have, too."""
    given_index: int | None = None
    name: str = ""
    arguments: str = ""
    half: str = ""
    is_begun: bool = False

    def is_repeated_by(self, name: str, arguments: str) -> bool:
        # A piece that continues a JSON object is never equal to all of that object.
        is_same = name == self.name and arguments == self.arguments
        return is_same and arguments.startswith("{") and self.is_complete()

    def is_complete(self) -> bool:
        try:
            from_json(self.arguments)
        except ValueError:
            return False
        return True


class ToolCalls:
    """The calls of one answer."""

    def __init__(self, make_id: Callable[[], str] = new_id) -> None:
        self._make_id = make_id
        self._calls: list[_Call] = []
        self._by_id: dict[str, _Call] = {}
        self._by_index: dict[int, _Call] = {}

    def add(self, pieces: Iterable[dict[str, Any]]) -> list[ToolCallDelta]:
        """Return the deltas of ``pieces``, the value of ``tool_calls``.

        A call without a name waits for it: ID and name are in a call's first delta.
        """
        deltas: list[ToolCallDelta] = []
        for piece in pieces:
            deltas += self._add(piece)
        return deltas

    def finish(self) -> list[ToolCallDelta]:
        """Return the deltas that the end of the answer completes."""
        deltas: list[ToolCallDelta] = []
        for call in self._calls:
            text = LONE_HALF if call.half else ""
            call.half = ""
            if text or not call.is_begun:
                deltas += self._deltas(call, text, is_last=True)
        return deltas

    def _add(self, piece: dict[str, Any]) -> list[ToolCallDelta]:
        function = piece.get("function") or piece.get("custom")
        if not isinstance(function, dict):
            function = {}
        call_id, name = _text(piece.get("id")), _text(function.get("name"))
        index, arguments = _index(piece.get("index")), _arguments(function)
        if (known := self._by_id.get(call_id)) and known.is_repeated_by(name, arguments):
            return []
        call = self._find(call_id, index, name, arguments)
        call.id = call.id or call_id
        call.given_id = call.given_id or call_id
        call.name = call.name or name
        if call.given_index is None:
            call.given_index = index
        return self._deltas(call, arguments)

    def _find(self, call_id: str, index: int | None, name: str, arguments: str) -> _Call:
        call = self._of_id(call_id, index, name, arguments) if call_id else None
        if call is None:
            call = self._of_index(call_id, index, name)
        if call_id:
            self._by_id[call_id] = call
        if index is not None:
            self._by_index[index] = call
        return call

    def _of_id(self, call_id: str, index: int | None, name: str, arguments: str) -> _Call | None:
        call = self._by_id.get(call_id)
        if call is None:
            return None
        other = None if index is None else self._by_index.get(index)
        if other is not None and other.given_id == call_id:
            call = other
        is_elsewhere = None not in {index, call.given_index} and index != call.given_index
        is_new = (
            name
            and call.name
            and (name != call.name or (is_elsewhere and arguments and call.is_complete()))
        )
        return self._begin(self._make_id()) if is_new else call

    def _begin(self, call_id: str = "") -> _Call:
        call = _Call(len(self._calls), call_id)
        self._calls.append(call)
        return call

    def _of_index(self, call_id: str, index: int | None, name: str) -> _Call:
        call = None if index is None else self._by_index.get(index)
        if call is not None:
            is_new = name and call.name and (call_id or name != call.name or call.is_complete())
        elif call_id or name:
            is_new = True
        else:
            is_new = not self._calls
            call = None if is_new else self._calls[-1]
        return self._begin() if call is None or is_new else call

    def _deltas(self, call: _Call, arguments: str, *, is_last: bool = False) -> list[ToolCallDelta]:
        text, call.half = join_halves(call.half, arguments) if arguments else ("", call.half)
        call.arguments += text
        if call.is_begun:
            return [ToolCallDelta(call.index, text)] if text else []
        if not call.name and not is_last:
            return []
        call.is_begun = True
        call.id = call.id or self._make_id()
        return [ToolCallDelta(call.index, call.arguments, call.id, call.name)]


def _index(value: object) -> int | None:
    if isinstance(value, str) and value.isdecimal() and value.isascii():
        value = int(value[:9])
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _text(value: object) -> str:
    return join_halves("", value)[0] if isinstance(value, str) and value else ""


def _arguments(function: dict[str, Any]) -> str:
    """Return the arguments as text: some servers send them as JSON, and not as its text."""
    value = function.get("arguments")
    if value is None:
        value = function.get("input")  # of a custom tool
    if value is None or isinstance(value, str):
        return value or ""
    return _compact(value)
