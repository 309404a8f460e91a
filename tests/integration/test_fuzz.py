"""Garbage in every place that an ACL user may write, while a worker runs: it lives and serves on.

Short by default. ``make fuzz`` writes 10,000 items (``BERLIN_FUZZ_ITEMS``), of the kinds that
``BERLIN_FUZZ_PLACES`` names.
"""

import os
import time

import redis
from hypothesis import HealthCheck, Phase, given, settings
from redis.exceptions import ResponseError

from berlin_schemas import names
from tests.support.fleet import QUICK_LEASES, prompt
from tests.support.fuzz import chosen, items, placed
from tests.support.workers import wait_until

ITEMS = int(os.environ.get("BERLIN_FUZZ_ITEMS", "300"))
EVERY = 50
"""So many items lie between two jobs that must be served."""
TRANSPORT = {"messages", "held", "pidbox"}
"""Places that kombu reads."""


def test_worker_lives_and_serves_the_next_job_whatever_stands_in_redis(fleet):
    places = chosen()
    token = names.token_key("berlin", fleet.upstream.account)
    raw = redis.Redis.from_url(fleet.env["REDIS_URL"])
    written = 0

    def serves(worker) -> None:
        job_id = fleet.send(prompt("after the garbage"))
        last = f"after {written} items"
        wait_until(lambda: worker.process.poll() is not None or fleet.events(job_id), last)
        assert worker.process.poll() is None, last
        assert fleet.ended(job_id)[-1]["type"] in {"completed", "failed"}, last

    with fleet.worker("-c", "4", **QUICK_LEASES) as worker:
        serves(worker)

        @settings(
            max_examples=ITEMS,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],  # what a worker has read cannot be taken back: no shrinking
        )
        @given(items(places))
        def write(commands):
            nonlocal written
            for command in commands:
                try:
                    raw.execute_command(*placed(command, token=token, database=0))
                except ResponseError:
                    continue  # Redis itself refuses it: a key of another type, an ID that is past
            written += 1
            if written % EVERY == 0:
                serves(worker)

        write()
        # What was written last is looked at within a lease and a turn of the reaper.
        time.sleep(2)
        for key in (token, f"token:{{{token}}}:lock", f"token:{{{token}}}:refusals"):
            raw.delete(key)
        job_id = fleet.send(prompt("the last one"))
        assert fleet.ended(job_id)[-1]["type"] == "completed"
        assert worker.process.poll() is None
        assert "has stopped, and so must this worker" not in worker.log
        assert "cannot be looked at" not in worker.log
    raw.close()
