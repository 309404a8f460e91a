"""Decide what ``/livez`` and ``/readyz`` answer. Pure.

- A worker is alive if its event loop and its consumer beat. A worker that is not alive should be
  restarted.
- It is ready if it can take jobs: it is alive, broker and Redis answer, the upstream gives a
  token, and it does not drain. A worker that drains is alive and not ready.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

CONSUMER_SILENT_S: Final = 30.0
"""A broker that does not answer may block the consumer for several timeouts in a row."""


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check; ``detail`` is a text for people."""

    ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Dependencies:
    """Problems of the servers behind a worker; ``None``: the server is well."""

    broker: str | None = None
    redis: str | None = None
    token: str | None = None


Checks = Mapping[str, Check]


def live(*, loop_age_s: float, consumer_age_s: float, draining: bool, lease_s: float) -> Checks:
    """Return the checks of both halves. A loop that does not beat for a lease counts as dead.

    The consumer has nothing to do while the worker drains, so its beat does not count then.
    """
    return {
        "event_loop": _within(loop_age_s, lease_s),
        "consumer": Check(ok=True, detail="it has stopped: the worker drains")
        if draining
        else _within(consumer_age_s, CONSUMER_SILENT_S),
    }


def ready(alive: Checks, outside: Dependencies, *, draining: bool) -> Checks:
    """Return the checks that decide whether the worker can take jobs."""
    return {
        **alive,
        "broker": _needed(outside.broker),
        "redis": _needed(outside.redis),
        "token": _needed(outside.token),
        "accepting": Check(not draining, "draining" if draining else "ok"),
    }


def report(checks: Checks) -> tuple[int, dict[str, Any]]:
    """Return HTTP status and JSON body."""
    ok = all(check.ok for check in checks.values())
    body = {
        "status": "ok" if ok else "failing",
        "checks": {name: {"ok": each.ok, "detail": each.detail} for name, each in checks.items()},
    }
    return (200 if ok else 503), body


def _within(age_s: float, limit_s: float) -> Check:
    if age_s <= limit_s:
        return Check(ok=True, detail="ok")
    return Check(ok=False, detail=f"silent for {age_s:.1f} s, more than {limit_s:g} s")


def _needed(problem: str | None) -> Check:
    return Check(problem is None, problem or "ok")
