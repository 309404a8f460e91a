"""Enqueue with a bare Celery app and read with redis-py: nothing of Berlin Worker is imported.

Run it as ``python bare_celery.py "Hello"``, with REDIS_URL and CELERY_BROKER_URL in the
environment. It prints the answer.
"""

import json
import os
import sys
from collections.abc import Iterator
from typing import Any

from celery import Celery
from redis import Redis

REDIS_URL = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0")
BROKER_URL = os.environ.get("CELERY_BROKER_URL") or REDIS_URL


def read(redis: Redis, job_id: str, seq: int = 0) -> Iterator[dict[str, Any]]:
    """Yield each event after ``seq`` once and in order, up to the terminal event."""
    log = f"job:{{{job_id}}}:log"
    with redis.pubsub(ignore_subscribe_messages=True) as channel:
        channel.subscribe(f"job:{job_id}")
        channel.get_message(timeout=10)  # the acknowledgement: from here on no event is missed
        published = None
        while True:
            if published is None or published["seq"] > seq + 1:  # the start, a gap, or silence
                entries = redis.xrange(log, min=f"({seq}-0")
                batch = [json.loads(fields["event"]) for _, fields in entries]
            else:
                batch = [published]
            for event in batch:
                if event["seq"] > seq:
                    seq = event["seq"]
                    yield event
                    if event["type"] in {"completed", "failed", "cancelled"}:
                        return
            message = channel.get_message(timeout=5)
            published = json.loads(message["data"]) if message else None


def main(prompt: str) -> None:
    """Print the answer to ``prompt``, without the text of attempts that were broken off."""
    app = Celery(broker=BROKER_URL)
    job = {"messages": [{"role": "user", "content": prompt}]}
    task = app.send_task("worker.generate", args=[job], queue="prompts")
    text = ""
    with Redis.from_url(REDIS_URL, decode_responses=True) as redis:
        for event in read(redis, task.id):
            if event["type"] in {"chunk", "reset"}:
                text = "" if event["type"] == "reset" else text + event["content"]
    print(text if event["type"] == "completed" else event)


main(*sys.argv[1:] or ["Hello"])
