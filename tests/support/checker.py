"""What must hold of every job that was accepted: pure functions, without code of the worker.

The rules are those of the contract, written a second time and in another way. So a mistake in the
worker is not repeated here.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from berlin_schemas import names

TERMINAL = frozenset({"completed", "failed", "cancelled"})
DEFAULT_ENDINGS: Mapping[str, frozenset[str]] = {
    "restart": frozenset({"completed"}),
    "fail": frozenset({"completed", "failed:interrupted"}),
    "keep": frozenset({"completed", "completed:interrupted"}),
}
"""How a job may end, by its ``on_interrupt``, if only workers and connections fail."""

_EXPIRING = re.compile(r"(job|worker|token|limit):")
_CELERYS = re.compile(r"_kombu\.|unacked|celery|prompts$|.*\.reply\.celery\.pidbox$")


@dataclass(frozen=True, slots=True)
class Accepted:
    """A job that was accepted, so it must run.

    ``text`` is the whole reply, ``None`` if unknown. ``endings`` are the ways in
    which it may end: ``completed``, ``completed:interrupted``, ``failed:<code>``,
    ``cancelled``.
    """

    job_id: str
    text: str | None
    on_interrupt: str = "restart"
    how: Literal["client", "bare"] = "bare"
    endings: frozenset[str] = frozenset()

    @property
    def allowed(self) -> frozenset[str]:
        """The endings, or those that go with ``on_interrupt``."""
        return self.endings or DEFAULT_ENDINGS[self.on_interrupt]


@dataclass(frozen=True, slots=True)
class Problem:
    """A violation of the rules; ``kind`` is how the summary counts it."""

    kind: Literal["lost", "duplicated", "wrong"]
    job_id: str
    detail: str

    def __str__(self) -> str:
        return f"{self.job_id}: {self.kind}: {self.detail}"


_EMPTY_AT_THE_END = frozenset({"prompts", "unacked:prompts", *names.DUE_KEYS})

Log = Sequence[tuple[str, bytes]]
"""Entry IDs and events, in the order of the stream."""


def ending_of(event: Mapping[str, Any]) -> str:
    """Return how a terminal event ends the job, in the words of :attr:`Accepted.endings`."""
    match event["type"]:
        case "failed":
            return f"failed:{event['error']['code']}"
        case "completed" if event["finish_reason"] == "interrupted":
            return "completed:interrupted"
    return str(event["type"])


def text_of(events: Iterable[Mapping[str, Any]]) -> str:
    """Return the text that a reader has at the end: the chunks since the last reset."""
    parts: list[str] = []
    for event in events:
        if event["type"] == "reset":
            parts.clear()
        elif event["type"] == "chunk":
            parts.append(event["content"])
    return "".join(parts)


def problems_of(job: Accepted, log: Log) -> list[Problem]:
    """Return what is wrong with the log of a job; a job without a terminal event is lost."""
    events = [json.loads(data) for _, data in log]
    endings = sum(event["type"] in TERMINAL for event in events)
    found = [Problem("wrong", job.job_id, detail) for detail in _disorder(job.job_id, log, events)]
    if endings == 0:
        found.append(Problem("lost", job.job_id, f"no end after {len(events)} events"))
    elif endings > 1:
        found.append(Problem("duplicated", job.job_id, f"{endings} terminal events"))
    elif events[-1]["type"] not in TERMINAL:
        found.append(Problem("wrong", job.job_id, "events follow the terminal one"))
    else:
        found += [Problem("wrong", job.job_id, detail) for detail in _wrong_end(job, events)]
    return found


def _disorder(job_id: str, log: Log, events: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    for n, ((entry_id, _), event) in enumerate(zip(log, events, strict=True), 1):
        if (entry_id, event["seq"], event["v"]) != (f"{n}-0", n, 1):
            yield f"entry {n} is {entry_id} with seq {event['seq']}, version {event['v']}"
        if event["job_id"] != job_id:
            yield f"entry {n} is of {event['job_id']}"
        if event["type"] == "chunk" and not event["content"]:
            yield f"an empty chunk, at {n}"
    yield from _mixed_attempts(events)


def _mixed_attempts(events: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    attempt, published = 0, 0  # published: chunks since the last reset
    for n, event in enumerate(events, 1):
        kind, current = event["type"], event["attempt"]
        if current < attempt:
            yield f"attempt {current} publishes after attempt {attempt}, at {n}"
        elif current > attempt and kind == "chunk":
            yield f"attempt {current} does not open, at {n}"
        elif current == attempt and kind in {"started", "reset"}:
            yield f"attempt {attempt} opens twice, at {n}"
        if kind == "started" and published:
            yield f"{published} chunks are not taken back by a reset, at {n}"
        elif kind == "reset" and not published:
            yield f"a reset without chunks, at {n}"
        attempt = max(attempt, current)
        published = 0 if kind == "reset" else published + (kind == "chunk")


def _wrong_end(job: Accepted, events: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    ending = ending_of(events[-1])
    if ending not in job.allowed:
        yield f"ended as {ending}, not as {' or '.join(sorted(job.allowed))}"
    if job.text is None:
        return
    text = text_of(events)
    if ending == "completed" and text != job.text:
        yield f"the text is wrong: {_difference(text, job.text)}"
    elif not job.text.startswith(text):
        yield f"the text is not what the reply begins with: {_difference(text, job.text)}"


def _difference(text: str, expected: str) -> str:
    pairs = enumerate(zip(text, expected, strict=False))
    at = next((n for n, (a, b) in pairs if a != b), min(len(text), len(expected)))
    return (
        f"{len(text)} characters of {len(expected)}, from {at}: "
        f"{text[at : at + 30]!r} for {expected[at : at + 30]!r}"
    )


def unlike_the_log(job_id: str, heard: Sequence[bytes], log: Log) -> list[Problem]:
    """Return how the events that a live reader saw differ from the log."""
    seen = [json.loads(data) for data in heard]
    written = [json.loads(data) for _, data in log]
    if seen == written:
        return []
    ended = sum(event["type"] in TERMINAL for event in seen)
    if ended > 1:
        return [Problem("duplicated", job_id, f"its reader saw {ended} terminal events")]
    pairs = enumerate(zip(seen, written, strict=False), 1)
    at = next((n for n, (a, b) in pairs if a != b), min(len(seen), len(written)) + 1)
    detail = f"its reader saw {len(seen)} events of {len(written)}, and another one at {at}"
    return [Problem("wrong", job_id, detail)]


def stray_keys(ttls: Mapping[str, int]) -> list[Problem]:
    """Return problems of the keys at the end of a run, given their TTLs in s (negative: none)."""
    found = []
    for key, ttl_s in ttls.items():
        if key in _EMPTY_AT_THE_END:
            found.append(Problem("wrong", key, "something is left behind"))
        if _EXPIRING.match(key):
            if ttl_s < 0 and key != "worker:dead":
                found.append(Problem("wrong", key, "a key without a TTL"))
        elif not _CELERYS.match(key):
            found.append(Problem("wrong", key, "a key that is not in the contract"))
    return found


def recovery_s(log: Log, faults: Sequence[float]) -> float | None:
    """Return the longest time from a fault to the first event of the attempt that followed it.

    ``faults`` are Unix times in ascending order. A fault counts if it lies between the last event
    of an attempt and the first event of the next one. ``None``: no fault counts.
    """
    worst: float | None = None
    last: Mapping[str, Any] | None = None
    for _, data in log:
        event = json.loads(data)
        if last is not None and event["attempt"] > last["attempt"]:
            between = [at for at in faults if last["ts"] <= at <= event["ts"]]
            if between:
                worst = max(worst or 0.0, event["ts"] - between[0])
        last = event
    return worst


@dataclass(frozen=True, slots=True)
class Figures:
    """The result of a run. ``worst_recovery_s`` is ``None`` if nothing had to recover."""

    jobs: int
    attempts: int
    resets: int
    worst_recovery_s: float | None
    problems: tuple[Problem, ...]

    @property
    def lost(self) -> int:
        """Jobs that were accepted and have no end."""
        return sum(problem.kind == "lost" for problem in self.problems)

    @property
    def duplicated(self) -> int:
        """Jobs that ended twice."""
        return len({each.job_id for each in self.problems if each.kind == "duplicated"})


def figures_of(
    jobs: Sequence[Accepted],
    logs: Mapping[str, Log],
    heard: Mapping[str, Sequence[bytes]],
    ttls: Mapping[str, int],
    faults: Sequence[float],
) -> Figures:
    """Return the figures of a whole run; ``heard`` has the events that live readers saw."""
    problems = stray_keys(ttls)
    attempts = resets = 0
    worst: float | None = None
    for job in jobs:
        log = logs.get(job.job_id, ())
        problems += problems_of(job, log)
        if job.job_id in heard:
            problems += unlike_the_log(job.job_id, heard[job.job_id], log)
        events = [json.loads(data) for _, data in log]
        attempts += max((event["attempt"] for event in events), default=0)
        resets += sum(event["type"] == "reset" for event in events)
        took = recovery_s(log, faults)
        if took is not None:
            worst = max(worst or 0.0, took)
    return Figures(len(jobs), attempts, resets, worst, tuple(problems))
