"""Cancellations that arrive while no worker holds the job: its claim is pending."""

import pytest

from berlin_schemas import names
from tests.support.harness import BUSY, JOB_ID, ScriptedProvider, Worker, says

pytestmark = pytest.mark.contract


@pytest.fixture
def worker(checked_redis):
    """Make workers that renew no lease during a test: no renewal reports the cancellation."""
    return lambda *scripts: Worker(
        checked_redis, ScriptedProvider(*scripts), renew_interval_s=1000.0
    )


def around_claim(monkeypatch, here, *, before=None, after=None, nth=1):
    """Do something before or after the ``nth`` claim of ``here`` takes place in the store."""
    claim, calls = here.store.claim, 0

    async def claiming(*args, **kwargs):
        nonlocal calls
        calls += 1
        mine = calls == nth
        if mine and before is not None:
            await before()
        reply = await claim(*args, **kwargs)
        if mine and after is not None:
            await after()
        return reply

    monkeypatch.setattr(here.store, "claim", claiming)


async def cancel(redis_client, here):
    """Cancel as a client does, and pass the message on to this worker."""
    await redis_client.hset(names.state_key(JOB_ID), "cancel", 1)
    await here.runner.cancel(JOB_ID, "requested")


@pytest.mark.parametrize(
    ("claim", "kinds"), [(1, ["cancelled"]), (2, ["started", "chunk", "cancelled"])]
)
async def test_cancellation_before_the_reply_of_the_claim_takes_effect_at_once(
    worker, redis_client, monkeypatch, claim, kinds
):
    async with worker(says("half", then=BUSY), says("never", hangs=True)) as here:

        async def overtaken():
            await cancel(redis_client, here)

        around_claim(monkeypatch, here, after=overtaken, nth=claim)
        await here.run()
        assert await here.kinds() == kinds
        assert here.provider.calls == claim - 1


async def test_job_that_starts_during_the_search_of_its_canceller_is_cancelled(worker, monkeypatch):
    async with worker(says("a", hangs=True)) as here:
        task = None

        async def begun():
            nonlocal task
            task = here.start()
            await here.logged(2)

        # Without a flag in the record, as Celery's revoke does it.
        around_claim(monkeypatch, here, before=begun)
        await here.runner.cancel(JOB_ID, "revoked", only_queued=False)
        await task
        assert (await here.log())[-1].reason == "revoked"


@pytest.mark.parametrize("running", [True, False])
async def test_revoked_bare_job_ends_with_reason_revoked_when_it_arrives(worker, running):
    async with worker(says("never")) as before:
        await before.runner.revoke(JOB_ID, running=running)
    async with worker(says("never")) as after:
        await after.run()
        [event] = await after.log()
        assert (event.type, event.reason) == ("cancelled", "revoked")
        assert after.provider.calls == 0


async def test_revoked_job_that_waits_between_attempts_ends_with_reason_revoked(
    worker, monkeypatch
):
    async with worker(says("half", then=BUSY), says("never", hangs=True)) as here:

        async def revoked():
            await here.store.revoke(JOB_ID, running=True)

        around_claim(monkeypatch, here, before=revoked, nth=2)
        await here.run()
        assert (await here.log())[-1].reason == "revoked"


async def test_reason_of_a_cancellation_is_kept_while_the_claim_is_pending(worker, monkeypatch):
    async with worker(says("never")) as here:

        async def expired():
            await here.runner.cancel(JOB_ID, "expired", only_queued=False)

        around_claim(monkeypatch, here, after=expired)
        await here.run()
        [event] = await here.log()
        assert (event.type, event.reason) == ("cancelled", "expired")


async def test_renewal_of_a_revoked_job_cancels_it_with_reason_revoked(checked_redis):
    async with Worker(checked_redis, ScriptedProvider(says("a", hangs=True))) as here:
        task = here.start()
        await here.logged(2)
        await here.store.revoke(JOB_ID, running=True)
        await task
        assert (await here.log())[-1].reason == "revoked"


async def test_cancellation_of_another_job_has_no_effect(worker, redis_client, monkeypatch):
    async with worker(says("a")) as here:

        async def other():
            await here.runner.cancel("another", "requested")

        around_claim(monkeypatch, here, after=other)
        await here.run()
        assert await here.kinds() == ["started", "chunk", "completed"]
        await redis_client.delete(names.state_key("another"))
