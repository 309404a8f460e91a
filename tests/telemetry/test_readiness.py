"""Alive, ready, or neither: the conclusions from each state."""

import pytest

from berlin_worker.telemetry.readiness import CONSUMER_SILENT_S, Dependencies, live, ready, report

pytestmark = pytest.mark.unit

QUIET = {"loop_age_s": 0.1, "consumer_age_s": 0.9, "draining": False, "lease_s": 6.0}


def status(**changes: float) -> tuple[int, list[str]]:
    """The status of ``/livez``, and what failed."""
    code, body = report(live(**(QUIET | changes)))  # type: ignore[arg-type]  # QUIET has the types of the parameters
    return code, [name for name, check in body["checks"].items() if not check["ok"]]


def test_worker_is_alive_while_its_loop_and_consumer_are():
    assert status() == (200, [])


@pytest.mark.parametrize(("age_s", "expected"), [(6.0, 200), (6.1, 503)])
def test_loop_that_is_silent_for_longer_than_a_lease_is_dead(age_s, expected):
    assert status(loop_age_s=age_s)[0] == expected


def test_dead_consumer_is_named_in_the_failure():
    assert status(consumer_age_s=CONSUMER_SILENT_S + 1) == (503, ["consumer"])


def test_consumer_may_be_silent_during_a_drain_and_the_loop_may_not():
    assert status(draining=True, consumer_age_s=1000) == (200, [])
    assert status(draining=True, loop_age_s=1000) == (503, ["event_loop"])


@pytest.mark.parametrize(
    ("outside", "draining", "failed"),
    [
        (Dependencies(), False, []),
        (Dependencies(broker="away"), False, ["broker"]),
        (Dependencies(redis="away", token="berlin: auth_failed"), False, ["redis", "token"]),
        (Dependencies(), True, ["accepting"]),
    ],
)
def test_worker_is_ready_if_it_can_take_jobs(outside, draining, failed):
    code, body = report(ready(live(**QUIET), outside, draining=draining))  # type: ignore[arg-type]  # QUIET has the types of the parameters
    assert code == (503 if failed else 200)
    assert [name for name, check in body["checks"].items() if not check["ok"]] == failed
    assert body["status"] == ("failing" if failed else "ok")


def test_worker_that_is_not_alive_is_not_ready():
    dead = live(**(QUIET | {"loop_age_s": 60.0}))  # type: ignore[arg-type]  # QUIET has the types of the parameters
    code, body = report(ready(dead, Dependencies(), draining=False))
    assert code == 503
    assert "60.0 s" in body["checks"]["event_loop"]["detail"]
