"""When the leases at a node may be reaped."""

import pytest

from berlin_worker.jobs.outages import Outages

pytestmark = pytest.mark.unit

LEASE_S = 6.0


def test_nodes_known_from_the_beginning_are_settled_at_once():
    outages = Outages(LEASE_S)
    assert outages.settled("", 0.0)  # the only server
    outages.serving(["a", "b"], 0.0)
    assert outages.settled("a", 0.0)


def test_node_that_failed_is_settled_a_lease_after_its_first_answer():
    outages = Outages(LEASE_S)
    outages.serving(["a", "b"], 0.0)
    outages.failed("a")
    assert not outages.settled("a", 100.0)
    assert outages.settled("b", 100.0)
    outages.answered("a", 100.0)
    outages.answered("a", 105.0)
    assert not outages.settled("a", 105.9)
    assert outages.settled("a", 106.0)


def test_node_whose_reply_is_late_is_not_settled():
    outages = Outages(LEASE_S)
    outages.asked("a", 10.0)
    assert outages.settled("a", 10.1)
    outages.asked("a", 10.9)  # the time of the first call counts
    assert not outages.settled("a", 11.0)
    outages.answered("a", 11.0)
    assert outages.settled("a", 11.0)


def test_node_that_takes_over_is_settled_after_a_lease():
    outages = Outages(LEASE_S)
    outages.serving(["a", "b"], 0.0)
    outages.failed("a")
    outages.serving(["replica", "b"], 20.0)
    assert not outages.settled("replica", 25.9)
    assert outages.settled("replica", 26.0)
    outages.serving(["a", "b"], 50.0)  # it was away: what was known of it counts no more
    assert not outages.settled("a", 55.9)
    assert outages.settled("a", 56.0)
