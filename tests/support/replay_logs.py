"""Events and log entries of one job, for tests of the pure core of a reader."""

import json

from berlin_schemas import Chunk, Completed, Event, Started, Timings, encode
from berlin_worker.client.entries import Entry
from berlin_worker.client.replay import Need, Replay

JOB = "job-1"
ZERO = Timings(queue_ms=0, login_ms=0, first_chunk_ms=0, stream_ms=0, total_ms=0)


def base(seq: int) -> dict[str, object]:
    return {"job_id": JOB, "seq": seq, "attempt": 1, "ts": 0.0}


def life(chunks: int) -> list[Event]:
    """Return the events of a job: ``started``, chunks, ``completed``."""
    middle = [Chunk(**base(seq), content=f"<{seq}>") for seq in range(2, chunks + 2)]
    end = Completed(**base(chunks + 2), finish_reason="stop", timings=ZERO)
    return [Started(**base(1)), *middle, end]


def entry(event: Event) -> Entry:
    return (f"{event.seq}-0".encode(), {b"event": encode(event)})


def later(seq: int) -> bytes:
    """Return an event of a type that a later version may have."""
    return json.dumps({"v": 1, **base(seq), "type": "thought", "depth": 3}).encode()


def reader_at(cursor: int) -> Replay:
    """Return a reader that has read the log up to ``cursor`` and listens."""
    replay = Replay(JOB)
    replay.page([entry(event) for event in life(cursor + 5)[:cursor]])
    assert replay.need is Need.LISTEN
    return replay


def of_database(event: Event, database: int) -> bytes:
    return encode(event.model_copy(update={"db": database}))
