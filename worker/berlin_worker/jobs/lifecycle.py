"""Which event may follow which, as a table. No I/O.

A job is NEW until its first event. An attempt opens with ``started``, or with
``reset`` where chunks of an earlier attempt have to be discarded; between the two
a job is RUNNING (nothing to discard) or STREAMING (there are chunks). One terminal
event ends it. A job that never begins (refused, cancelled in the queue) goes from
NEW to OVER at once.
"""

from enum import Enum, auto
from typing import Final


class Phase(Enum):
    """Where a job is in its life."""

    NEW = auto()
    RUNNING = auto()
    STREAMING = auto()
    OVER = auto()


_ENDINGS: Final = {"failed": Phase.OVER, "cancelled": Phase.OVER}

TABLE: Final[dict[Phase, dict[str, Phase]]] = {
    Phase.NEW: {"started": Phase.RUNNING, **_ENDINGS},
    Phase.RUNNING: {
        "started": Phase.RUNNING,
        "chunk": Phase.STREAMING,
        "completed": Phase.OVER,
        **_ENDINGS,
    },
    Phase.STREAMING: {
        "chunk": Phase.STREAMING,
        "reset": Phase.RUNNING,
        "completed": Phase.OVER,
        **_ENDINGS,
    },
    Phase.OVER: {},
}


class LifecycleError(RuntimeError):
    """An event that may not stand here: a bug of ours, never a job's."""


def phase_of(seq: int, chunks: int) -> Phase:
    """The phase of a job that is not over, from its record: last seq, chunks since a reset."""
    if seq == 0:
        return Phase.NEW
    return Phase.STREAMING if chunks else Phase.RUNNING


def advance(phase: Phase, event_type: str) -> Phase:
    """The phase after an event; raises :class:`LifecycleError` if it may not follow."""
    try:
        return TABLE[phase][event_type]
    except KeyError:
        raise LifecycleError(f"{event_type} may not follow in phase {phase.name}") from None
