"""The Celery app of the sample tasks, and the list in Redis to which they append their notes."""

import json
import os

import redis
from celery import Celery
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from berlin_worker.pool import AsyncioTask

URL = os.environ["SAMPLE_REDIS_URL"]

app = Celery(
    "sample",
    broker=os.environ.get("SAMPLE_BROKER_URL", URL),
    backend=URL,
    task_cls=AsyncioTask,
)
app.conf.update(
    worker_pool="berlin_worker.pool:AsyncioPool",
    task_acks_late=True,
    worker_prefetch_multiplier=1,
    worker_hijack_root_logger=True,
    broker_connection_retry_on_startup=True,
)
# Any Celery setting, as JSON.
app.conf.update(json.loads(os.environ.get("SAMPLE_CONF", "{}")))

notes = redis.Redis.from_url(URL, decode_responses=True)


# Tasks poll by this client, also while a test cuts all connections.
releases = redis.Redis.from_url(URL, retry=Retry(ConstantBackoff(0.01), 10))


def note(*words: object) -> None:
    """Append one line to the list ``notes``; blocks the event loop of a test, but only briefly."""
    notes.rpush("notes", " ".join(str(word) for word in words))
