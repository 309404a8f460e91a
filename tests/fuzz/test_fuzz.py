"""Garbage in every place that an ACL user may write, while a worker runs: it goes on serving.

Short by default. ``make fuzz`` writes 10,000 items (``BERLIN_FUZZ_ITEMS``) to the kinds of places
that ``BERLIN_FUZZ_PLACES`` names.
"""

import itertools
import os

import pytest
import redis
from redis.exceptions import ResponseError

from berlin_schemas import names
from tests.support.fleet import QUICK_LEASES, prompt
from tests.support.fuzz import chosen, draw, write
from tests.support.workers import wait_until

pytestmark = pytest.mark.integration

ITEMS = int(os.environ.get("BERLIN_FUZZ_ITEMS", "300"))
EVERY = 50
"""The number of items between two jobs that must be served."""


def due(raw: redis.Redis) -> bool:
    """Return whether the reaper is late with an index entry, or the index cannot be read."""
    try:
        before_ms = raw.time()[0] * 1000 - 1000
        return any(raw.zrangebyscore(key, "-inf", before_ms) for key in names.DUE_KEYS)
    except ResponseError:
        return True


def let_producers_send(raw: redis.Redis) -> None:
    """Remove keys of a wrong type that keep Celery's own producers from sending."""
    lists = dict.fromkeys(("prompts", *(f"prompts\x06\x16{step}" for step in (3, 6, 9))), b"list")
    for key, kind in {**lists, "_kombu.binding.prompts": b"set"}.items():
        if raw.type(key) not in {kind, b"none"}:
            raw.delete(key)


def test_worker_serves_the_next_job_whatever_redis_contains(fleet):
    job_ids = (f"served-{n}" for n in itertools.count())
    token = names.token_key("berlin", fleet.upstream.account)
    items = draw(ITEMS, chosen())
    with (
        fleet.worker("-c", "4", **QUICK_LEASES) as worker,
        redis.Redis.from_url(fleet.env["REDIS_URL"]) as raw,
    ):

        def served(written: int) -> None:
            if written % EVERY:
                return
            job_id, after = next(job_ids), f"after {written} items"
            let_producers_send(raw)
            fleet.send(prompt("after the garbage"), task_id=job_id)
            wait_until(lambda: worker.process.poll() is not None or fleet.events(job_id), after)
            assert worker.process.poll() is None, after
            # A token that is garbage may fail the job.
            assert fleet.ended(job_id)[-1]["type"] in {"completed", "failed"}, after

        served(0)
        write(raw, items, token=token, after_each=served)
        wait_until(lambda: not due(raw), "the reaper has looked at what was written last")
        raw.delete(token, *(f"token:{{{token}}}:{what}" for what in ("lock", "refusals")))
        let_producers_send(raw)
        job_id = fleet.send(prompt("the last one"), task_id=next(job_ids))
        assert fleet.ended(job_id)[-1]["type"] == "completed"
        assert worker.process.poll() is None
        assert "has stopped, and so must this worker" not in worker.log
        assert "cannot be looked at" not in worker.log
