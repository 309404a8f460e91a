"""A real worker whose provider never ends: its slots are free again, and it can be stopped."""

import pytest

from tests.support.faulty_provider import installed
from tests.support.fleet import Fleet, prompt
from tests.support.workers import wait_until

pytestmark = pytest.mark.integration

IGNORES_CANCEL = {"provider": "faulty", "options": {"act": "ignore_cancel"}}


@pytest.fixture
def fleet(fleet: Fleet, tmp_path) -> Fleet:
    fleet.env |= installed(tmp_path)
    return fleet


def test_only_slot_is_free_again_and_the_worker_stops_in_time(fleet):
    with fleet.worker("-c", "1", WORKER_DRAIN_TIMEOUT_S="0.1") as worker:
        cancelled = fleet.send(prompt("never a third word", **IGNORES_CANCEL))
        timed_out = fleet.send(prompt("never a third word", **IGNORES_CANCEL, deadline_s=1))
        wait_until(lambda: len(fleet.events(cancelled)) == 3, "it ignores the cancellation")
        fleet.redis.hset(f"job:{{{cancelled}}}:state", "cancel", 1)
        fleet.redis.publish("job-control", f'{{"cancel": "{cancelled}"}}')
        assert fleet.ended(cancelled)[-1]["type"] == "cancelled"
        assert fleet.ended(timed_out)[-1]["error"]["code"] == "deadline_exceeded"
        assert fleet.ended(fleet.send(prompt("a b c")))[-1]["type"] == "completed"
        held = fleet.send(prompt("never a third word", **IGNORES_CANCEL))
        wait_until(lambda: len(fleet.events(held)) == 3, "it ignores the cancellation")
        assert worker.stop() == 0
    assert worker.log.count("of its cancellation: abandoned") == 3
    state = fleet.redis.hmget(f"job:{{{held}}}:state", "status", "attempt")
    assert state == [b"queued", b"1"]
