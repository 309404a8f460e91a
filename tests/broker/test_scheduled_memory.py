"""Which scheduled messages stay in memory until their ETA."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from celery.worker import state

from berlin_worker.broker import scheduled
from berlin_worker.broker.scheduled import LONGEST_KEPT_BYTES, MOST_KEPT, Postponed, check_memory

pytestmark = pytest.mark.unit

NOW = datetime(2026, 1, 1, tzinfo=UTC)
REDIS = SimpleNamespace(qos=SimpleNamespace(postpone=None))


LARGE = LONGEST_KEPT_BYTES + 1


@pytest.mark.parametrize(
    ("size", "ahead_s", "others", "postponed"),
    [
        (LONGEST_KEPT_BYTES, 600, MOST_KEPT - 1, False),
        (LARGE, 600, 0, True),
        (1, 600, MOST_KEPT, True),
        (LARGE, 0.1, MOST_KEPT, False),
        (LARGE, -600, MOST_KEPT, False),
    ],
)
def test_large_or_numerous_messages_wait_without_their_bodies(
    monkeypatch, size, ahead_s, others, *, postponed
):
    monkeypatch.setattr(scheduled, "time", NOW.timestamp)
    monkeypatch.setattr(state, "scheduled_requests", range(others))
    message = SimpleNamespace(channel=REDIS, body=b"x" * size)
    eta = NOW + timedelta(seconds=ahead_s)
    if not postponed:
        check_memory(message, eta)
        return
    with pytest.raises(Postponed) as raised:
        check_memory(message, eta)
    assert raised.value.due == eta.timestamp()


@pytest.mark.parametrize("channel", [SimpleNamespace(), SimpleNamespace(qos=None)])
def test_broker_that_cannot_postpone_keeps_them_all(channel):
    check_memory(
        SimpleNamespace(channel=channel, body=b"x" * LARGE), datetime.max.replace(tzinfo=UTC)
    )
