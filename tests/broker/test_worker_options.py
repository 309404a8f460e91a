"""Options of ``celery worker`` that cannot work: one line for each names what to do instead."""

import pytest

from berlin_worker.broker.worker_options import pool_refusal, queue_refusal, refusal

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    "pool",
    ["threads", "solo", "gevent", "eventlet", "processes", "custom",
     "celery.concurrency.solo:TaskPool", "", "no such\npool" * 50],
)  # fmt: skip
def test_pool_that_cannot_stream_is_refused(pool):
    message = pool_refusal(pool)
    assert message is not None
    assert "leave --pool out" in message
    assert "\n" not in message
    assert len(message) < 300


@pytest.mark.parametrize(
    "pool", ["prefork", "berlin_worker.pool:AsyncioPool", "berlin_worker.pool.pool:AsyncioPool"]
)
def test_default_pool_and_our_own_name_mean_our_pool(pool):
    assert pool_refusal(pool) is None


@pytest.mark.parametrize(
    ("options", "written", "instead"),
    [
        ({"max_tasks_per_child": 100}, "--max-tasks-per-child", "SIGHUP"),
        ({"max_memory_per_child": 200_000}, "--max-memory-per-child", "MemoryMax="),
        ({"autoscale": (10, 3)}, "--autoscale", "--concurrency"),
        ({"autoscale": "10,3"}, "--autoscale", "--concurrency"),
        ({"beat": True}, "--beat", "`celery beat`"),
        ({"purge": True}, "--purge", "`celery -A berlin_worker purge`"),
        ({"pool_start_method": "spawn"}, "--pool-start-method", "no child process"),
        ({"concurrency": "auto"}, "--concurrency auto", "for example 1000"),
        ({"prefetch_multiplier": 0}, "--prefetch-multiplier", "1 or more"),
        ({"prefetch_multiplier": -3}, "--prefetch-multiplier", "1 or more"),
        ({"concurrency": 0}, "--concurrency", "from 1 to 65535"),
        ({"concurrency": -1}, "--concurrency", "from 1 to 65535"),
        ({"concurrency": 65536}, "--concurrency", "from 1 to 65535"),
        ({"concurrency": 1000, "prefetch_multiplier": 100}, "--concurrency", "from 1 to 655"),
        ({"heartbeat_interval": 0}, "--heartbeat-interval", "--without-heartbeat"),
        ({"heartbeat_interval": -1}, "--heartbeat-interval", "--without-heartbeat"),
        ({"time_limit": float("nan")}, "--time-limit", "0 for no limit"),
        ({"time_limit": -1.0}, "--time-limit", "0 for no limit"),
        ({"soft_time_limit": float("inf")}, "--soft-time-limit", "0 for no limit"),
        ({"hostname": "w 1@host"}, "--hostname", "w1@%h"),
        ({"hostname": "w1"}, "--hostname", "w1@%h"),
        ({"hostname": "@"}, "--hostname", "w1@%h"),
        ({"hostname": "a\nb@host"}, "--hostname", "w1@%h"),
        ({"hostname": "a" * 300 + "@host"}, "--hostname", "w1@%h"),
    ],
)
def test_option_without_a_meaning_is_refused(options, written, instead):
    message = refusal(options)
    assert message is not None
    assert message.startswith(written)
    assert instead in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_tasks_per_child": None, "autoscale": None, "beat": False, "purge": False},
        {"pool_start_method": "fork", "prefetch_multiplier": 4, "concurrency": 1000},
        {"hostname": "w1@host.example", "heartbeat_interval": 5, "soft_time_limit": 0.0},
        {"optimization": "fair", "time_limit": 3.0, "statedb": "state", "task_events": True},
    ],
)
def test_other_options_are_obeyed(options):
    assert refusal(options) is None


@pytest.mark.parametrize("queues", [["other"], ["prompts", "other"], []])
def test_other_queues_are_refused(queues):
    message = queue_refusal(queues)
    assert message is not None
    assert "prompts alone" in message


def test_queue_of_the_jobs_may_be_named():
    assert queue_refusal(["prompts"]) is None
