"""Celery's gevent pool: blocking code, requests and redis-py, in greenlets."""

import json

import redis
import requests
from celery import Celery
from requests.adapters import HTTPAdapter
from shared import COMPLETIONS, HEADERS, REDIS_URL, STREAMS, body, chunk, completed, orders

app = Celery("celery_gevent", broker=REDIS_URL)
app.conf.update(task_ignore_result=True, worker_prefetch_multiplier=1)

client = redis.Redis.from_pool(
    redis.BlockingConnectionPool.from_url(REDIS_URL, max_connections=50, timeout=None)
)
session = requests.Session()
session.mount("http://", HTTPAdapter(pool_connections=1, pool_maxsize=STREAMS))


@app.task(name="stream")
def generate(job_id: str, prompt: str) -> None:
    """Run one job."""
    call = session.post(COMPLETIONS, json=body(prompt), headers=HEADERS, stream=True)
    with call as response:
        response.raise_for_status()
        # chunk_size None: what has arrived, and no waiting for more.
        for line in response.iter_lines(chunk_size=None):
            if line:
                delta = json.loads(line)["content"]
                client.publish(f"job:{job_id}", chunk(job_id, delta))
    client.publish(f"job:{job_id}", completed(job_id))


if __name__ == "__main__":
    for order in orders():
        generate.delay(*order)
