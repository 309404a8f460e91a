"""The table of events: which event may follow in each phase, and which may not."""

import itertools

import pytest

from berlin_schemas.events import TERMINAL_TYPES
from berlin_worker.jobs.lifecycle import TABLE, LifecycleError, Phase, advance, phase_of

pytestmark = pytest.mark.unit

EVENT_TYPES = ("started", "chunk", "reset", "completed", "failed", "cancelled")

ALLOWED = {
    (Phase.NEW, "started"): Phase.RUNNING,
    (Phase.NEW, "failed"): Phase.OVER,
    (Phase.NEW, "cancelled"): Phase.OVER,
    (Phase.RUNNING, "started"): Phase.RUNNING,
    (Phase.RUNNING, "chunk"): Phase.STREAMING,
    (Phase.RUNNING, "completed"): Phase.OVER,
    (Phase.RUNNING, "failed"): Phase.OVER,
    (Phase.RUNNING, "cancelled"): Phase.OVER,
    (Phase.STREAMING, "chunk"): Phase.STREAMING,
    (Phase.STREAMING, "reset"): Phase.RUNNING,
    (Phase.STREAMING, "completed"): Phase.OVER,
    (Phase.STREAMING, "failed"): Phase.OVER,
    (Phase.STREAMING, "cancelled"): Phase.OVER,
}


@pytest.mark.parametrize(("phase", "event_type"), list(itertools.product(Phase, EVENT_TYPES)))
def test_each_event_in_each_phase_is_allowed_or_refused_as_written(phase, event_type):
    if (phase, event_type) in ALLOWED:
        assert advance(phase, event_type) is ALLOWED[phase, event_type]
    else:
        with pytest.raises(LifecycleError, match=f"{event_type} may not follow"):
            advance(phase, event_type)


def test_event_of_no_known_type_is_refused_everywhere():
    for phase in Phase:
        with pytest.raises(LifecycleError):
            advance(phase, "finished")


def test_exactly_the_terminal_events_end_a_job_and_nothing_follows_them():
    ending = {kind for row in TABLE.values() for kind, after in row.items() if after is Phase.OVER}
    assert ending == TERMINAL_TYPES
    assert TABLE[Phase.OVER] == {}
    assert all(
        advance(phase, kind) is Phase.OVER
        for phase, row in TABLE.items()
        for kind in row
        if kind in TERMINAL_TYPES
    )


@pytest.mark.parametrize("phase", [Phase.NEW, Phase.RUNNING, Phase.STREAMING])
def test_job_can_fail_and_be_cancelled_at_any_time_before_it_is_over(phase):
    assert {"failed", "cancelled"} <= TABLE[phase].keys()


@pytest.mark.parametrize(
    ("seq", "chunks", "phase"),
    [(0, 0, Phase.NEW), (1, 0, Phase.RUNNING), (9, 0, Phase.RUNNING), (9, 3, Phase.STREAMING)],
)
def test_phase_follows_from_seq_and_chunks_of_the_record(seq, chunks, phase):
    assert phase_of(seq, chunks) is phase
