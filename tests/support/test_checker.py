"""The checker of the chaos tests finds each violation of the contract."""

import json
from typing import Any

import pytest

from tests.support.checker import (
    Accepted,
    Problem,
    figures_of,
    problems_of,
    recovery_s,
    stray_keys,
    unlike_the_log,
)

pytestmark = pytest.mark.unit

JOB = Accepted("j", "a b c")


def written(
    *events: tuple[int, str] | tuple[int, str, Any], **head: Any
) -> list[tuple[str, bytes]]:
    """Return a log of ``(attempt, type, content or finish reason or error code)``."""
    log = []
    for seq, (attempt, kind, *more) in enumerate(events, 1):
        event: dict[str, Any] = {
            "v": 1,
            "job_id": "j",
            "seq": seq,
            "attempt": attempt,
            "type": kind,
            "ts": float(seq),
            **head,
        }
        if kind == "chunk":
            event["content"] = more[0]
        elif kind == "completed":
            event["finish_reason"] = more[0] if more else "stop"
        elif kind == "failed":
            event["error"] = {"code": more[0]}
        log.append((f"{seq}-0", json.dumps(event).encode()))
    return log


def changed(log: list[tuple[str, bytes]], at: int, **fields: Any) -> list[tuple[str, bytes]]:
    entry_id, data = log[at]
    return [*log[:at], (entry_id, json.dumps(json.loads(data) | fields).encode()), *log[at + 1 :]]


def kinds(job: Accepted, log: list[tuple[str, bytes]]) -> set[str]:
    return {problem.kind for problem in problems_of(job, log)}


WHOLE = written((1, "started"), (1, "chunk", "a b "), (1, "chunk", "c"), (1, "completed"))
RESTARTED = written(
    *((1, "started"), (1, "chunk", "a b ")),
    *((2, "reset"), (2, "chunk", "a b c"), (2, "completed")),
)


@pytest.mark.parametrize(
    ("job", "log"),
    [
        (JOB, WHOLE),
        (JOB, RESTARTED),
        (JOB, written((1, "started"), (2, "started"), (2, "chunk", "a b c"), (2, "completed"))),
        (JOB, written((3, "started"), (3, "chunk", "a b c"), (3, "completed"))),
        (Accepted("j", None), written((1, "started"), (1, "chunk", "x"), (1, "completed"))),
        (
            Accepted("j", "a b c", "keep"),
            written((1, "started"), (1, "chunk", "a "), (2, "completed", "interrupted")),
        ),
        (
            Accepted("j", "a b c", "fail"),
            written((1, "started"), (1, "chunk", "a "), (2, "failed", "interrupted")),
        ),
        (
            Accepted("j", "x", endings=frozenset({"failed:too_many_attempts"})),
            written((1, "started"), (4, "failed", "too_many_attempts")),
        ),
        (Accepted("j", "x", endings=frozenset({"cancelled"})), written((1, "cancelled"))),
    ],
)
def test_valid_history_has_no_violation(job, log):
    assert problems_of(job, log) == []


@pytest.mark.parametrize(
    ("log", "kind", "detail"),
    [
        ([], "lost", "no end after 0"),
        (WHOLE[:-1], "lost", "no end after 3"),
        (written((1, "started"), (1, "completed"), (1, "completed")), "duplicated", "2 terminal"),
        (written((1, "started"), (1, "completed"), (2, "cancelled")), "duplicated", "2 terminal"),
        (
            written((1, "started"), (1, "completed"), (1, "chunk", "a b c")),
            "wrong",
            "follow the terminal",
        ),
        ([WHOLE[0], *WHOLE[2:]], "wrong", "entry 2 is 3-0"),
        ([WHOLE[0], WHOLE[1], WHOLE[1], *WHOLE[2:]], "wrong", "entry 3 is 2-0"),
        (changed(WHOLE, 1, seq=7), "wrong", "with seq 7"),
        (changed(WHOLE, 1, v=2), "wrong", "version 2"),
        (changed(WHOLE, 1, job_id="other"), "wrong", "is of other"),
        (changed(RESTARTED, 3, attempt=1), "wrong", "attempt 1 publishes after attempt 2"),
        (changed(RESTARTED, 2, type="started"), "wrong", "not taken back"),
        (changed(WHOLE, 2, attempt=2), "wrong", "attempt 2 does not open"),
        (changed(WHOLE, 1, content=""), "wrong", "an empty chunk"),
        (changed(WHOLE, 2, content="x"), "wrong", "the text is wrong"),
        (changed(WHOLE, 2, content="c c"), "wrong", "the text is wrong"),
        (
            written((1, "started"), (1, "reset"), (1, "chunk", "a b c"), (1, "completed")),
            "wrong",
            "opens twice",
        ),
        (
            written((1, "started"), (2, "reset"), (2, "chunk", "a b c"), (2, "completed")),
            "wrong",
            "a reset without chunks",
        ),
        (written((1, "started"), (1, "failed", "upstream_error")), "wrong", "failed:upstream"),
        (written((1, "cancelled")), "wrong", "ended as cancelled"),
        (
            written((1, "started"), (1, "chunk", "a"), (2, "completed", "interrupted")),
            "wrong",
            "ended as completed:interrupted",
        ),
    ],
)
def test_each_violation_is_found(log, kind, detail):
    assert any(p.kind == kind and detail in p.detail for p in problems_of(JOB, log))


def test_text_that_was_kept_must_be_what_the_reply_begins_with():
    job = Accepted("j", "a b c", "keep")
    log = written((1, "started"), (1, "chunk", "b "), (2, "completed", "interrupted"))
    assert kinds(job, log) == {"wrong"}


def test_reader_that_missed_or_repeated_an_event_is_a_problem():
    heard = [data for _, data in WHOLE]
    assert unlike_the_log("j", heard, WHOLE) == []
    for wrong in ([], heard[:-1], heard[1:], [*heard[:2], *heard[1:]], [heard[0]] * len(heard)):
        (problem,) = unlike_the_log("j", wrong, WHOLE)
        assert problem.kind == "wrong"
    (problem,) = unlike_the_log("j", [*heard, heard[-1]], WHOLE)
    assert problem.kind == "duplicated"


def test_keys_without_a_ttl_and_unknown_keys_are_reported():
    assert stray_keys({"job:{j}:log": 5, "worker:dead": -1, "_kombu.binding.prompts": -1}) == []
    for key in ("job:{j}:log", "job:{j}:state", "token:berlin:0", "limit:x"):
        (problem,) = stray_keys({key: -1})
        assert problem == Problem("wrong", key, "a key without a TTL")
    for key in ("prompts", "unacked:prompts", "worker:due:{00}"):
        (problem,) = stray_keys({key: 100 if key == "worker:due:{00}" else -1})
        assert problem == Problem("wrong", key, "something is left behind")
    (problem,) = stray_keys({"something": 100})
    assert problem.kind == "wrong"


def test_recovery_runs_from_the_fault_to_the_next_attempt_s_first_event():
    # Events at 1 to 5 s; attempt 2 begins at 3 s.
    assert recovery_s(RESTARTED, [2.5]) == 0.5
    assert recovery_s(RESTARTED, [2.2, 2.9]) == pytest.approx(0.8)
    assert recovery_s(RESTARTED, [0.5, 1.5, 3.5]) is None
    assert recovery_s(WHOLE, [2.5]) is None


def test_figures_count_lost_and_duplicated_jobs():
    twice = written((1, "started"), (1, "completed"), (1, "completed"), job_id="twice")
    jobs = [JOB, Accepted("gone", "x"), Accepted("twice", "")]
    figures = figures_of(jobs, {"j": RESTARTED, "twice": twice}, {"gone": []}, {"odd": 1}, [2.5])
    assert (figures.jobs, figures.attempts, figures.resets) == (3, 3, 1)
    assert (figures.lost, figures.duplicated, figures.worst_recovery_s) == (1, 1, 0.5)
    assert {p.job_id for p in figures.problems} == {"gone", "twice", "odd"}
