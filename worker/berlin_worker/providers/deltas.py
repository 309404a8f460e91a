"""The deltas of a stream: text as ``str``, and two types for reasoning and tool calls."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """A piece of the model's reasoning, never empty."""

    content: str


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of a tool call.

    ``index`` counts the calls of the answer from 0. ``id`` and ``name`` are set in the first
    delta of a call alone. ``arguments`` is a piece of JSON text, possibly empty in that delta.
    """

    index: int
    arguments: str
    id: str | None = None
    name: str | None = None


Delta = str | ReasoningDelta | ToolCallDelta

Deltas = list[str] | list[Delta]
"""The deltas of one read of the upstream: a provider of text alone may declare ``list[str]``."""
