"""What each real server must do, by a bare producer in front and a bare reader behind."""

import json
import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import redis
from celery import Celery

_STREAMS: Final = 500
_WHOLE_TOKENS: Final = 2000
_CANCELLED_TOKENS: Final = 30000
_TERMINAL: Final = {"completed", "failed", "cancelled"}

Job = dict[str, Any]


class Queue:
    """A bare producer and a bare reader."""

    def __init__(self, url: str) -> None:
        self._celery = Celery(broker=url)
        self._redis = redis.Redis.from_url(url)

    def send(self, job: Job) -> str:
        """Send a job and return its ID."""
        job_id = uuid.uuid4().hex
        self._celery.send_task("worker.generate", args=[job], queue="prompts", task_id=job_id)
        return job_id

    def events(self, job_id: str) -> list[dict[str, Any]]:
        """Return the events of a job so far."""
        log = self._redis.xrange(f"job:{{{job_id}}}:log")
        return [json.loads(fields[b"event"]) for _, fields in log]

    def wait(self, job_id: str, timeout_s: float = 300) -> list[dict[str, Any]]:
        """Return all events of a job."""
        until(lambda: self.is_over(job_id), timeout_s)
        return self.events(job_id)

    def is_over(self, job_id: str) -> bool:
        """Return whether a job has its last event."""
        last = self._redis.xrevrange(f"job:{{{job_id}}}:log", count=1)
        return bool(last) and json.loads(last[0][1][b"event"])["type"] in _TERMINAL

    def cancel(self, job_id: str) -> None:
        """Cancel a job as the contract says."""
        self._redis.hset(f"job:{{{job_id}}}:state", "cancel", "1")
        self._redis.publish("job-control", json.dumps({"cancel": job_id}))


def main_job(queue: Queue, job: Job) -> str:
    """Check that text and usage arrive."""
    events = queue.wait(queue.send(job))
    last = events[-1]
    assert last["type"] == "completed", last
    chunks = [event["content"] for event in events if event["type"] == "chunk"]
    assert chunks
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    tokens = (last.get("usage") or {}).get("completion_tokens", "no")
    return f"{len(chunks)} chunks, {tokens} tokens, {last['finish_reason']}"


def reasoning(queue: Queue, job: Job) -> str:
    """Check that reasoning arrives apart from the text, and before it."""
    events = queue.wait(queue.send(job))
    assert events[-1]["type"] == "completed", events[-1]
    kinds = [event["type"] for event in events if event["type"] in {"reasoning", "chunk"}]
    assert kinds == sorted(kinds, reverse=True), kinds
    assert {*kinds} == {"reasoning", "chunk"}, kinds
    text = "".join(event["content"] for event in events if event["type"] == "reasoning")
    return f"{kinds.count('reasoning')} events, {text}"[:80]


def tool_call(queue: Queue, job: Job) -> str:
    """Check that a tool call arrives whole."""
    events = queue.wait(queue.send(job))
    assert events[-1]["type"] == "completed", events[-1]
    pieces = [event for event in events if event["type"] == "tool_call"]
    assert pieces, events
    assert pieces[0]["name"] == "weather"
    text = "".join(piece["arguments"] for piece in pieces)
    return f"{len(pieces)} events, arguments {text}"[:80]


def cancel(queue: Queue, job: Job, is_idle: Callable[[], bool]) -> str:
    """Check that a cancelled job ends, and that its server stops generating."""
    job_id = queue.send(job)
    until(lambda: any(event["type"] == "chunk" for event in queue.events(job_id)), 120)
    started = time.monotonic()
    queue.cancel(job_id)
    assert queue.wait(job_id)[-1]["type"] == "cancelled"
    ended_s = time.monotonic() - started
    until(is_idle, 60)
    return f"event after {ended_s:.1f} s, the server idle after {time.monotonic() - started:.1f} s"


def cancel_costs(queue: Queue, job: Callable[[int], Job], pid: int) -> str:
    """Check that a cancelled job ends, and by its CPU time that the server stops generating.

    A whole job, shorter than the rest of the cancelled one, shows what that rest would cost.
    """
    before_s = cpu_s(pid)
    assert queue.wait(queue.send(job(_WHOLE_TOKENS)))[-1]["type"] == "completed"
    whole_s = cpu_s(pid) - before_s
    result = cancel(queue, job(_CANCELLED_TOKENS), lambda: is_idle(pid))
    spent_s = cpu_s(pid) - before_s - whole_s
    assert spent_s < whole_s / 2, f"{spent_s:.1f} s of CPU, {_WHOLE_TOKENS} tokens: {whole_s:.1f} s"
    return (
        f"{result}; {spent_s:.1f} s of CPU for what there was of {_CANCELLED_TOKENS} tokens, where "
        f"{_WHOLE_TOKENS} take {whole_s:.1f} s"
    )


def streams(queue: Queue, job: Job) -> str:
    """Check that of many streams at once none is lost."""
    started = time.monotonic()
    ids = [queue.send(job) for _ in range(_STREAMS)]
    ends = [queue.wait(job_id, 900)[-1]["type"] for job_id in ids]
    assert ends == ["completed"] * _STREAMS, {end: ends.count(end) for end in set(ends)}
    return f"{_STREAMS} completed in {time.monotonic() - started:.0f} s"


def until(is_so: Callable[[], bool], timeout_s: float) -> None:
    """Wait until ``is_so``; ends the program after ``timeout_s``."""
    end = time.monotonic() + timeout_s
    while not is_so():
        if time.monotonic() > end:
            raise SystemExit("a server was not ready in time")
        time.sleep(0.1)


def is_idle(pid: int) -> bool:
    """Return whether a process uses next to no CPU for half a second."""
    before_s = cpu_s(pid)
    time.sleep(0.5)
    return cpu_s(pid) - before_s < 0.03


def cpu_s(pid: int) -> float:
    """Return the CPU time (s) that a process has used, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
