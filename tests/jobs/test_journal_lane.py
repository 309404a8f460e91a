"""The lanes that the nodes of a cluster have in the journal: order, turns, parts of the buffer."""

import asyncio
import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berlin_worker.jobs import journal, journal_lane
from berlin_worker.jobs.journal_lane import left_of_turn
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


@given(
    turn_s=st.sampled_from([0.001, 0.002, 0.5]),
    sent_at=st.floats(0, 1e7),
    later_s=st.floats(0, 1),
)
def test_each_turn_of_a_lane_has_one_batch(turn_s, sent_at, later_s):
    now = sent_at + later_s
    left_s = left_of_turn(turn_s, sent_at, now)
    assert 0 <= left_s <= turn_s + 1e-6
    if left_s:
        next_turn = (now + left_s) / turn_s
        assert next_turn == pytest.approx(round(next_turn), abs=1e-4)
        assert round(next_turn) > sent_at / turn_s - 1e-4
    else:
        assert (now + 1e-6) // turn_s > sent_at // turn_s or later_s >= turn_s - 1e-6
    assert left_of_turn(turn_s, -math.inf, now) == 0


async def test_events_of_one_turn_go_together_and_lanes_of_an_idle_process_send_at_once():
    harness = Harness(node_of=lambda job_id: job_id)
    async with harness:
        logs = [harness.started(f"job-{number}") for number in range(3)]
        begun_s = time.monotonic()
        for _ in range(300):
            for log in logs:
                log.chunk(["x"])
            await asyncio.sleep(0)
        await harness.journal.drained()
        turns = (time.monotonic() - begun_s) / 0.002
    assert len(harness.store.calls) <= 3 * (turns + 2)
    assert [len(harness.store.events[log.job_id]) for log in logs] == [301] * 3


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


async def test_job_whose_slot_moves_holds_up_no_other_and_keeps_its_order():
    async with Harness(node_of=lambda _: "one") as harness:
        harness.store.moving.add("moves")
        moves, other = harness.started("moves"), harness.started("other")
        for number in range(5):
            moves.chunk([f"text {number}"])
            other.chunk(["x"])
            await other.flush()
        await until(lambda: harness.store.put_off >= 3)
        await other.end(completed(other))
        assert "moves" not in harness.store.events
        assert moves.writer.full  # its reader stops, and leaves the buffer to the others
        assert not other.writer.full
        reading = asyncio.create_task(moves.writer.wait_for_room())
        ending = asyncio.create_task(moves.end(completed(moves)))
        harness.store.moving.clear()
        await ending
        await reading
        assert not moves.writer.full
        await harness.journal.drained()
        assert len(harness.store.events["moves"]) == moves.seq == 7
        assert harness.journal.stats.events == 14
        assert harness.fenced == []


async def test_job_that_lost_its_lease_while_its_slot_moved_is_fenced():
    async with Harness(node_of=lambda _: "one") as harness:
        harness.store.moving.add("moves")
        log = harness.started("moves")
        await until(lambda: harness.store.put_off)
        log.chunk(["text"])
        harness.store.refused.add("moves")
        harness.store.moving.clear()
        await harness.journal.drained()
        assert harness.fenced == ["moves"]
        assert log.fenced


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.booleans()), max_size=40))
async def test_events_keep_their_order_while_slots_move_at_any_time(steps):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal_lane, "_RETRY_S", (0.0,))
        async with Harness(node_of=lambda _: "one") as harness:
            logs = [harness.started(f"job-{number}") for number in range(3)]
            for number, moving, sends in steps:
                job_id = logs[number].job_id
                (harness.store.moving.add if moving else harness.store.moving.discard)(job_id)
                logs[number].chunk(["x"])
                if sends:
                    await asyncio.sleep(0)
            harness.store.moving.clear()
            for log in logs:
                await log.end(completed(log))
            # The store checks that the events of each job follow each other.
            assert {job: len(events) for job, events in harness.store.events.items()} == {
                log.job_id: log.seq for log in logs
            }
            assert harness.journal.buffered_bytes == 0
