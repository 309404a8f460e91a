"""The parts that the nodes of a cluster have of the journal's buffer."""

import pytest

from berlin_worker.jobs import journal
from tests.support.journal_harness import Harness, completed
from tests.support.waiting import until

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("jobs_move", [True, False])
async def test_node_that_has_left_leaves_its_part_of_the_buffer_to_the_others(
    jobs_move, monkeypatch
):
    monkeypatch.setattr(journal, "_SHARED_AGAIN_S", 0.001)
    there = {"one", "two"}
    home = {}
    async with Harness(
        limit=2000, node_of=lambda job_id: home.get(job_id, "one"), nodes=lambda: there
    ) as harness:
        home["moves"] = "two"
        stays, moves = harness.started("stays"), harness.started("moves")
        assert [log.writer.limit for log in (stays, moves)] == [1000, 1000]
        await harness.journal.drained()
        there.remove("two")
        home["moves"] = "one"
        if jobs_move:
            await moves.end(completed(moves))
        await until(lambda: stays.writer.limit == 2000)
        stays.chunk(["x" * 1500])
        assert not stays.writer.full
        await stays.end(completed(stays))


async def test_node_that_has_left_keeps_its_part_while_its_events_wait(monkeypatch):
    monkeypatch.setattr(journal, "_SHARED_AGAIN_S", 0.001)
    there = {"one", "two"}
    async with Harness(limit=2000, node_of=lambda job_id: job_id, nodes=lambda: there) as harness:
        harness.store.gate.clear()
        one, two = harness.started("one"), harness.started("two")
        await harness.store.held_up()
        two.chunk(["x" * 1500])
        there.remove("two")
        assert two.writer.full
        assert one.writer.limit == 1000
        harness.store.gate.set()
        await until(lambda: one.writer.limit == 2000)
