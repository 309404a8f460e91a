"""Lanes of a journal, one for each node of a cluster: order over a moved slot, and the buffer."""

import asyncio

import pytest

from tests.support.journal_harness import Harness, completed

pytestmark = pytest.mark.unit


async def test_log_follows_its_slot_to_another_node_and_keeps_its_order():
    nodes = {}
    async with Harness(node_of=lambda job_id: nodes.get(job_id, "one")) as harness:
        logs = [harness.started(f"job-{number}") for number in range(4)]
        for step in range(20):
            for number, log in enumerate(logs):
                log.chunk(["x" * 100])
                nodes[log.job_id] = ("one", "two", "three")[(step + number) % 3]
            await asyncio.sleep(0)  # batches of all sizes: some are on their way, some wait
        for log in logs:
            await log.end(completed(log))
        assert harness.fenced == []
        assert {log.seq for log in logs} == {22}
        assert harness.journal.buffered_bytes == 0


async def test_node_that_does_not_answer_fills_its_own_part_of_the_buffer():
    async with Harness(limit=2000, node_of=lambda job_id: job_id) as harness:
        harness.store.gate.clear()
        full, free = harness.started("full"), harness.started("free")
        await harness.store.held_up()
        full.chunk(["x" * 1000])
        assert full.writer.full
        assert not free.writer.full
        harness.store.gate.set()
        await full.writer.wait_for_room()
        await harness.journal.drained()
