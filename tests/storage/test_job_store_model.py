"""The Lua scripts against a plain model: workers, lost replies, expired leases, in any order.

Time is ``lease_ms`` of a record, which the test sets if a lease shall run out. The index of
unfinished jobs loses entries and gets foreign ones; it must always heal.
"""

import asyncio
import contextlib
import copy

import pytest
import redis
import redis.asyncio
from hypothesis import HealthCheck, settings
from hypothesis import Phase as Step
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from berlin_schemas import Completed, Reset, Started, decode, names
from berlin_worker.jobs.lifecycle import Phase
from tests.support.job_store_calls import TIMINGS
from tests.support.job_store_model import Model, copied, restore, spoil_log
from tests.support.selection import examples
from tests.support.store_helpers import (
    JOB,
    LOG_TTL_S,
    LosesReplies,
    check_keys,
    check_log,
    event,
    expire_lease,
    indexed,
    make_due,
    make_store,
    open_log,
    raw_log,
    record,
)

pytestmark = pytest.mark.contract

JOBS = ("one", "two")
WORKERS = range(3)


class StoreMachine(RuleBasedStateMachine):
    """Each worker holds at most one log for each job; the log may be stale."""

    jobs = st.sampled_from(JOBS)
    workers = st.sampled_from(WORKERS)
    lost_replies = st.integers(0, 2)
    url = ""

    @initialize()
    def begin(self):
        with redis.Redis.from_url(self.url) as client:
            client.flushdb()
        self.loop = asyncio.new_event_loop()
        self.client = LosesReplies.from_url(self.url)
        self.stores = [make_store(self.client, owner=f"worker-{n}") for n in WORKERS]
        self.models = {job_id: Model() for job_id in JOBS}
        self.logs = {}
        self.before_claim = {}
        self.calls = 0

    def teardown(self):
        if hasattr(self, "loop"):
            self.loop.run_until_complete(self.client.aclose())
            self.loop.close()

    def until_answered(self, lost, call):
        """Make the same call again until its reply arrives; ``lost`` replies are lost first."""

        async def again():
            self.client.lose = 0
            await self.client.ping()
            self.client.lose = lost
            while True:
                with contextlib.suppress(ConnectionError):
                    return await call()

        return self.loop.run_until_complete(again())

    @rule(worker=workers, job_id=jobs, lost=lost_replies, only_queued=st.booleans())
    def claim(self, worker, job_id, lost, only_queued):
        self._claim(worker, job_id, lost, held="", only_queued=only_queued)

    @precondition(lambda self: self.logs)
    @rule(data=st.data(), lost=lost_replies)
    def give_way(self, data, lost):
        worker, job_id = data.draw(st.sampled_from(sorted(self.logs)))
        log = self.logs.pop((worker, job_id))
        self._claim(worker, job_id, lost, held=log.owner, only_queued=False)

    def _claim(self, worker, job_id, lost, *, held, only_queued):
        self.calls += 1
        call = f"call-{self.calls}"
        model = self.models[job_id]
        before = copy.deepcopy(model), copied(self.url, job_id)
        expected = model.claim(f"worker-{worker}/{call}", held, only_queued)
        got = self.until_answered(
            lost,
            lambda: self.stores[worker].claim(
                job_id, JOB, call=call, deadline_s=50.0, held=held, only_queued=only_queued
            ),
        )
        assert got.status == expected
        assert got.attempt == model.attempt
        assert got.failed_attempts == model.failed_attempts
        assert got.seq == len(model.log)
        assert got.cancel_reason == model.cancel_reason
        if expected == "claimed":
            self.before_claim[job_id] = before
            log = self.logs[worker, job_id] = open_log(got, opened=False)
            kind = Reset if log.phase is Phase.STREAMING else Started
            log.event(event(log, kind, **({"reason": "interrupted"} if kind is Reset else {})))

    @rule(job_id=jobs)
    def a_failover_forgets_the_last_claim(self, job_id):
        """The attempt goes on, unaware; the next claim has its number."""
        if job_id in self.before_claim:
            self.models[job_id], keys = self.before_claim.pop(job_id)
            restore(self.url, keys)

    @precondition(lambda self: self.logs)
    @rule(data=st.data(), lost=lost_replies, chunks=st.integers(0, 3), ends=st.booleans())
    def append(self, data, lost, chunks, ends):
        """Append to several logs in one call; each log may be stale."""
        picked = data.draw(
            st.lists(st.sampled_from(sorted(self.logs)), min_size=1, unique_by=lambda each: each[1])
        )
        batches = []
        for key in picked:
            log = self.logs[key]
            log.chunk(["x"] * (chunks + 1))
            if ends:
                log.event(event(log, Completed, finish_reason="stop", timings=TIMINGS))
            batches.append(log.take())
        got = self.until_answered(lost, lambda: self.stores[picked[0][0]].append(batches))
        for (worker, job_id), batch, taken in zip(picked, batches, got, strict=True):
            model = self.models[job_id]
            owned = model.owned_by(batch.log.owner)
            assert taken == (owned and not model.log_broken)
            if owned and model.log_broken:
                model.log, model.log_broken = [], False
            if taken:
                model.log += batch.events
            if taken and ends:
                model.status = "over"
            if not taken or ends:
                del self.logs[worker, job_id]

    @precondition(lambda self: self.logs)
    @rule(lost=lost_replies)
    def renew(self, lost):
        held = [(job_id, log.owner) for (_, job_id), log in sorted(self.logs.items())]
        got = self.until_answered(lost, lambda: self.stores[0].renew(held))
        for (job_id, owner), reply in zip(held, got, strict=True):
            model = self.models[job_id]
            if model.owned_by(owner):
                assert reply == (model.cancel_reason or "renewed")
                model.lease_expired = False
            else:
                assert reply == "lost"

    @precondition(lambda self: self.logs)
    @rule(data=st.data(), lost=lost_replies)
    def release(self, data, lost):
        worker, job_id = data.draw(st.sampled_from(sorted(self.logs)))
        log = self.logs.pop((worker, job_id))
        self.until_answered(lost, lambda: self.stores[worker].release(job_id, log.owner))
        model = self.models[job_id]
        if model.owned_by(log.owner):
            model.status = "queued"
            model.lease_expired = False

    @rule(job_id=jobs)
    def time_passes(self, job_id):
        model = self.models[job_id]
        if model.unfinished:
            self.loop.run_until_complete(expire_lease(self.client, job_id))
            model.lease_expired = True

    @rule(job_id=jobs)
    def index_entry_is_lost(self, job_id):
        self.loop.run_until_complete(self.client.delete(names.due_key(job_id)))

    @rule(job_id=jobs)
    def index_entry_without_a_job_appears(self, job_id):
        self.loop.run_until_complete(make_due(self.client, job_id))

    @rule()
    def index_heals(self):
        self.loop.run_until_complete(self._index_heals())

    async def _index_heals(self):
        for store in self.stores:
            await store.update_index()
        for _ in range(2):  # fewer keys than one call looks at
            await self.stores[0].heal_index()
        unfinished = {job_id for job_id in JOBS if self.models[job_id].unfinished}
        assert {each.decode() for each in await indexed(self.client)} >= unfinished
        for job_id in set(JOBS) - unfinished:
            await make_due(self.client, job_id)
            got = await self.stores[0].reap(job_id, again_running_s=6, again_queued_s=30)
            assert got is None
        await self.stores[0].update_index()
        assert {each.decode() for each in await indexed(self.client)} == unfinished

    @rule(job_id=jobs)
    def reap(self, job_id):
        got = self.loop.run_until_complete(
            self.stores[0].reap(job_id, again_running_s=6, again_queued_s=30)
        )
        model = self.models[job_id]
        due = model.unfinished and model.lease_expired
        assert (got is not None) == due
        if due:
            assert got.was == model.status
            assert got.job == JOB
            model.failed_attempts += model.status == "running"
            model.status = "queued"
            model.lease_expired = False

    @rule(job_id=jobs)
    def ask_to_cancel(self, job_id):
        model = self.models[job_id]
        if model.unfinished:
            model.cancel_reason = model.cancel_reason or "requested"
            self.loop.run_until_complete(self.client.hset(names.state_key(job_id), "cancel", 1))

    @rule(job_id=jobs, lost=lost_replies, running=st.booleans())
    def revoke(self, job_id, lost, running):
        model = self.models[job_id]
        got = self.until_answered(lost, lambda: self.stores[0].revoke(job_id, running=running))
        assert got == (model.status == "queued")
        if model.status != "over" and (running or model.status != "running"):
            model.cancel_reason = "revoked"

    @rule(job_id=jobs, kind=st.sampled_from(["string", "ahead"]))
    def others_write_to_the_log(self, job_id, kind):
        """It is removed, by the next event or by the next attempt, and begins anew."""
        model, key = self.models[job_id], names.log_key(job_id)
        if model.log and model.unfinished and not model.log_broken:
            model.log_broken = True
            spoil_log(self.url, key, kind, last=len(model.log))

    @rule(job_id=jobs, field=st.sampled_from(["failed_attempts", "created_ms", "queued_ms"]))
    def others_write_to_the_record(self, job_id, field):
        """A field that is no number counts as missing."""
        model = self.models[job_id]
        if model.unfinished:
            with redis.Redis.from_url(self.url) as client:
                client.hset(names.state_key(job_id), field, "1e400")
            if field == "failed_attempts":
                model.failed_attempts = 0

    @invariant()
    def the_log_is_what_the_model_took(self):
        if hasattr(self, "loop"):
            self.loop.run_until_complete(self._check())

    async def _check(self):
        await check_keys(self.client)
        for job_id, model in self.models.items():
            if not model.log_broken:
                events = await raw_log(self.client, job_id)
                assert events == model.log
                check_log([decode(data) for data in events], job_id)
            kept = await record(self.client, job_id)
            assert kept.get("status") == ("completed" if model.status == "over" else model.status)
            assert int(kept.get("attempt", 0)) == model.attempt
            assert ("job" in kept) == (model.unfinished)
            assert ("lease_ms" in kept) == (model.unfinished)
            if model.status == "over":
                assert await self.client.ttl(names.log_key(job_id)) <= LOG_TTL_S


@pytest.mark.parametrize("kind", ["real", "cluster"])
def test_scripts_behave_as_the_model(request, kind):
    url = request.getfixturevalue(f"{kind}_redis_url")
    machine = type("Machine", (StoreMachine,), {"url": url})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples(20),
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
            phases=[Step.explicit, Step.reuse, Step.generate],
        ),
    )
