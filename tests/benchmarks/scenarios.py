"""What is measured, with which load, for whom. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

Size = Literal["tiny", "quick", "full"]
PEERS = (
    *("celery-prefork", "celery-threads", "celery-gevent"),
    *("arq", "taskiq", "saq", "streaq", "dramatiq"),
)
QUEUES = ("arq", "taskiq", "saq", "streaq", "dramatiq")
BERLIN = ("ours", "floor", *PEERS)
OPENAI = ("ours-openai", "openai-sdk")
"""The same load by the protocol of OpenAI."""
EVERYBODY = (*BERLIN, *OPENAI)


@dataclass(frozen=True, slots=True)
class Scenario:
    """One load. ``jobs`` jobs of ``chunks`` chunks, ``streams`` of them at a time.

    ``every_ms`` is the pace of each stream, 0: flat out. The ``kind`` of a run is ``streams``
    (all at once), ``backlog`` (enqueued before the worker starts), ``idle`` (one after the other),
    ``memory`` (no jobs: the memory of a worker that may hold one stream) or ``reader`` (as
    ``streams``, and one process reads along by the client of this project).
    ``rounds_at_most`` bounds what costs much time and varies little.
    """

    name: str
    title: str
    jobs: int
    chunks: int
    every_ms: int
    contenders: tuple[str, ...] = BERLIN
    kind: Literal["streams", "backlog", "idle", "memory", "reader"] = "streams"
    per_write: int = 1
    streams: int = 1000
    workers: int = 1
    rounds_at_most: int = 100

    def held_by(self, max_streams: int) -> "Scenario":
        """Return the scenario for a worker of fewer streams: fewer jobs, if all run at once."""
        if self.kind in {"streams", "reader"} and self.jobs > max_streams:
            return replace(self, jobs=max_streams, streams=max_streams)
        return replace(self, streams=min(self.streams, max_streams))


_FULL = (
    Scenario("memory", "a worker that waits", 1, 1, 0, kind="memory", streams=1, rounds_at_most=1),
    Scenario("stream", "1,000 streams x 200 chunks, 10 a second each", 1000, 200, 100, EVERYBODY),
    Scenario("flat", "1,000 streams x 200 chunks, flat out", 1000, 200, 0),
    Scenario("jobs", "jobs of one chunk", 5000, 1, 0, ("ours", *QUEUES), kind="backlog"),
    Scenario("idle", "one job at a time", 100, 1, 0, kind="idle"),
    Scenario("flight-100", "100 streams, 5,000 chunks a second", 100, 750, 20, ("ours", "floor")),
    Scenario(
        *("flight-5000", "5,000 streams, 5,000 chunks a second", 5000, 35, 1000, ("ours", "floor")),
        streams=5000,
    ),
    Scenario(
        *("reader", "one process reads 5,000 jobs along", 5000, 20, 1000, ("ours",), "reader"),
        streams=5000,
    ),
    Scenario("workers-1", "one worker, flat out", 1000, 200, 0, ("ours",), streams=1000),
    Scenario("workers-2", "two workers, flat out", 1000, 200, 0, ("ours",), streams=500, workers=2),
)

# Factors for the numbers of jobs and chunks. The pace stays, so the figures of a chunk compare.
_SHRINK: Mapping[Size, tuple[float, float]] = {
    "quick": (0.3, 0.3),
    "tiny": (0.01, 0.1),
}


def scenarios(size: Size) -> tuple[Scenario, ...]:
    """Return all scenarios: ``quick`` with a third of jobs and chunks, ``tiny`` to try the code."""
    return _FULL if size == "full" else tuple(_shrunk(scenario, size) for scenario in _FULL)


def _shrunk(scenario: Scenario, size: Size) -> Scenario:
    if scenario.kind == "memory":
        return scenario
    jobs, chunks = _SHRINK[size]
    smaller = replace(
        scenario,
        jobs=max(round(scenario.jobs * jobs), 5),
        chunks=max(round(scenario.chunks * chunks), 1),
        streams=max(round(scenario.streams * jobs), 5),
    )
    title = f"{scenario.title} (here {smaller.jobs:,} x {smaller.chunks:,})"
    return replace(smaller, title=title)
