"""What ``/livez`` and ``/readyz`` look at, and what follows from it. Pure.

Alive is a worker whose event loop and whose consumer go on; another process would do better
than one that is not. Ready is one that can take jobs: it is alive, broker and Redis answer,
a token can be had, and it is not shutting down. One that drains is alive and not ready.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

CONSUMER_SILENT_S: Final = 30.0
"""The consumer may wait for a broker that does not answer, for several timeouts in a row."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at; ``told`` is for people."""

    ok: bool
    told: str


@dataclass(frozen=True, slots=True)
class Dependencies:
    """What a worker needs and does not have within itself: ``None`` where all is well."""

    broker: str | None = None
    redis: str | None = None
    token: str | None = None


Checks = Mapping[str, Check]


def live(
    *, loop_silence_s: float, consumer_silence_s: float, draining: bool, lease_s: float
) -> Checks:
    """Whether both halves go on. A loop that is silent for longer than a lease counts as dead.

    The consumer has nothing more to do while the worker drains.
    """
    return {
        "event_loop": _within(loop_silence_s, lease_s),
        "consumer": Check(ok=True, told="has stopped: draining")
        if draining
        else _within(consumer_silence_s, CONSUMER_SILENT_S),
    }


def ready(alive: Checks, outside: Dependencies, *, draining: bool) -> Checks:
    """Whether it can take jobs."""
    return {
        **alive,
        "broker": _needed(outside.broker),
        "redis": _needed(outside.redis),
        "token": _needed(outside.token),
        "accepting": Check(not draining, "draining" if draining else "ok"),
    }


def report(checks: Checks) -> tuple[int, dict[str, Any]]:
    """HTTP status and body."""
    ok = all(check.ok for check in checks.values())
    body = {
        "status": "ok" if ok else "failing",
        "checks": {name: {"ok": each.ok, "told": each.told} for name, each in checks.items()},
    }
    return (200 if ok else 503), body


def _within(silence_s: float, limit_s: float) -> Check:
    if silence_s <= limit_s:
        return Check(ok=True, told="ok")
    return Check(ok=False, told=f"silent for {silence_s:.1f} s, more than {limit_s:g} s")


def _needed(problem: str | None) -> Check:
    return Check(problem is None, problem or "ok")
