"""A producer and a reader that use only the contract, with Redis, workers and an upstream."""

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from celery import Celery

from berlin_schemas import names
from berlin_worker.config import urls
from berlin_worker.config.broker_url import for_kombu
from berlin_worker.embedded.upstream import Upstream
from berlin_worker.storage import connections
from tests.support.workers import WorkerProcess, wait_until

QUICK_LEASES = {
    "WORKER_LEASE_S": "1",
    "WORKER_RENEW_INTERVAL_S": "0.3",
    "WORKER_REAP_INTERVAL_S": "0.1",
}
"""Settings with which workers notice within a second that one of them is dead."""
TERMINAL = {"completed", "failed", "cancelled"}


class Fleet:
    """A producer and a reader that use only the contract, with Redis, workers and an upstream."""

    def __init__(self, redis_url: str, upstream: Upstream, broker_url: str = "") -> None:
        self.env = {
            "REDIS_URL": redis_url,
            "CELERY_BROKER_URL": broker_url,
            **upstream.environ,
        }
        self.upstream = upstream
        broker = for_kombu(broker_url or redis_url)
        self.app = Celery(broker=broker.url, set_as_current=False)
        self.app.conf.broker_transport_options = broker.transport_options
        self.app.conf.broker_use_ssl = broker.use_ssl
        self.app.conf.broker_transport = broker.transport
        self.redis = connections.blocking(redis_url, timeout_s=5)
        self.broker = connections.blocking(broker_url, timeout_s=5) if broker_url else self.redis
        self.is_cluster = urls.is_cluster(redis_url)

    def worker(
        self, *arguments: str, alone: bool = True, fork: bool = True, **env: str
    ) -> WorkerProcess:
        """Return a worker of the fleet, not yet started; see :class:`WorkerProcess`."""
        return WorkerProcess(
            "berlin_worker", *arguments, env=self.env | env, alone=alone, fork=fork
        )

    def send(self, *args: Any, task_id: str | None = None, **kwargs: Any) -> str:
        sent = self.app.send_task(
            "worker.generate", args=args, kwargs=kwargs, queue="prompts", task_id=task_id
        )
        return str(sent.id)

    def log(self, job_id: str) -> list[bytes]:
        return [fields[b"event"] for _, fields in self.redis.xrange(f"job:{{{job_id}}}:log")]

    def events(self, job_id: str) -> list[dict[str, Any]]:
        return [json.loads(event) for event in self.log(job_id)]

    def ended(self, job_id: str) -> list[dict[str, Any]]:
        """Wait for the end of a job; return its events."""

        def over() -> bool:
            events = self.events(job_id)
            return bool(events) and events[-1]["type"] in TERMINAL

        wait_until(over, f"end of {job_id}: {[e['type'] for e in self.events(job_id)][-5:]}")
        return self.events(job_id)

    def attempt(self, job_id: str) -> int:
        """Return the number of the job's current attempt."""
        return int(self.redis.hget(f"job:{{{job_id}}}:state", "attempt") or 0)

    def running(self, job_id: str) -> None:
        """Wait until the job has published a chunk."""
        wait_until(lambda: any(e["type"] == "chunk" for e in self.events(job_id)), "a first chunk")


def prompt(text: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **fields}


@contextmanager
def recorded(fleet: Fleet, *job_ids: str) -> Iterator[dict[str, list[bytes]]]:
    """Yield all that is published for each job, by its ID, once the subscription is acknowledged.

    On a single Redis other jobs are recorded too: there the reader subscribes to a pattern.
    """
    heard: dict[str, list[bytes]] = {}
    over = threading.Event()

    def hear(reader: Any) -> None:
        while not over.is_set():
            message = reader.get_message(timeout=0.1)
            if message and message["type"].endswith("message"):
                job_id = message["channel"].decode().removeprefix("job:").strip("{}")
                heard.setdefault(job_id, []).append(message["data"])

    with ExitStack() as stack:
        readers = [stack.enter_context(each) for each in _subscribed(fleet, job_ids)]
        threads = [threading.Thread(target=hear, args=(reader,)) for reader in readers]
        for thread in threads:
            thread.start()
            stack.callback(thread.join)
        stack.callback(over.set)
        yield heard


def _subscribed(fleet: Fleet, job_ids: tuple[str, ...]) -> Iterator[Any]:
    """Yield acknowledged subscriptions: one, or one for each node of a cluster."""
    if not fleet.is_cluster:
        reader: Any = fleet.redis.pubsub()
        reader.psubscribe("job:*")
        _acknowledged(reader, 1)
        yield reader
        return
    cluster: Any = fleet.redis
    by_node: dict[Any, list[str]] = {}
    for channel in map(names.sharded_channel, job_ids):
        by_node.setdefault(cluster.get_node_from_key(channel), []).append(channel)
    for node, channels in by_node.items():
        reader = cluster.get_redis_connection(node).pubsub()
        for channel in channels:  # a command takes channels of one slot
            reader.ssubscribe(channel)
        _acknowledged(reader, len(channels))
        yield reader


def _acknowledged(reader: Any, channels: int) -> None:
    left = channels

    def done() -> bool:
        nonlocal left
        message = reader.get_message(timeout=1)
        left -= bool(message) and message["type"].endswith("subscribe")
        return left == 0

    wait_until(done, "the subscriptions")
