"""Which event may follow which, as a table. No I/O.

A job is NEW until its first event. An attempt opens with ``started``, or with ``reset`` if
readers must discard chunks of an earlier attempt. Reasoning and tool calls count as chunks. A
job without chunks is RUNNING, with chunks it is STREAMING. One terminal event ends it. A job
that never begins (refused, cancelled in the queue) goes from NEW to OVER at once.
"""

from enum import Enum, auto
from typing import Final


class Phase(Enum):
    """The phase of a job."""

    NEW = auto()
    RUNNING = auto()
    STREAMING = auto()
    OVER = auto()


_ENDINGS: Final = {"failed": Phase.OVER, "cancelled": Phase.OVER}
_DELTAS: Final = {
    "chunk": Phase.STREAMING,
    "reasoning": Phase.STREAMING,
    "tool_call": Phase.STREAMING,
}

TABLE: Final[dict[Phase, dict[str, Phase]]] = {
    Phase.NEW: {"started": Phase.RUNNING, **_ENDINGS},
    Phase.RUNNING: {
        "started": Phase.RUNNING,
        **_DELTAS,
        "completed": Phase.OVER,
        **_ENDINGS,
    },
    Phase.STREAMING: {
        **_DELTAS,
        "reset": Phase.RUNNING,
        "completed": Phase.OVER,
        **_ENDINGS,
    },
    Phase.OVER: {},
}


class LifecycleError(RuntimeError):
    """An event that may not follow: a bug of the worker, never of a job."""


def phase_of(seq: int, chunks: int) -> Phase:
    """Return the phase of a job that is not over, from its last seq and chunks since a reset."""
    if seq == 0:
        return Phase.NEW
    return Phase.STREAMING if chunks else Phase.RUNNING


def advance(phase: Phase, event_type: str) -> Phase:
    """Return the phase after an event; raises :class:`LifecycleError` if it may not follow."""
    try:
        return TABLE[phase][event_type]
    except KeyError:
        raise LifecycleError(f"{event_type} may not follow in phase {phase.name}") from None
