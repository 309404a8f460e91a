"""The test's side of ``tests/sample_app``: send its tasks, read its notes."""

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import kombu.pools
import redis
from celery import Celery

from tests.support.workers import WorkerProcess, wait_until

APP = "tests.sample_app.pool_app"
LIFESPANS = "tests.sample_app.lifespans"


class TaskFailed(Exception):
    """A task ended without a result; ``str`` is its state, exception type and message."""


@dataclass(frozen=True)
class Sent:
    """A task that was sent.

    Reads the result that Celery has stored. ``AsyncResult`` is not used: it opens connections when
    it is garbage-collected.
    """

    id: str
    app: "SampleApp"

    @property
    def meta(self) -> dict[str, Any]:
        """The stored result: ``status``, ``result``, ``traceback``."""
        raw = self.app.redis.get(f"celery-task-meta-{self.id}")
        return json.loads(raw) if raw else {"status": "PENDING", "result": None}

    @property
    def state(self) -> str:
        """The stored state."""
        return str(self.meta["status"])

    def get(self) -> Any:
        """Wait for the result and return it; raises :class:`TaskFailed`."""
        final = ("SUCCESS", "FAILURE", "REVOKED")
        wait_until(lambda: self.state in final, f"the end of {self.id}")
        meta = self.meta
        if meta["status"] == "SUCCESS":
            return meta["result"]
        error = meta["result"]
        raise TaskFailed(f"{meta['status']} {error['exc_type']}: {error['exc_message']}")

    def terminate(self) -> None:
        """Revoke the task with ``terminate``."""
        self.app.celery.control.revoke(self.id, terminate=True)


class SampleApp:
    """A client of the sample app, and workers that run it."""

    def __init__(self, url: str, broker_url: str | None = None, **conf: Any) -> None:
        self.url = url
        self.env = {"SAMPLE_REDIS_URL": url, "SAMPLE_CONF": json.dumps(conf)}
        if broker_url:
            self.env["SAMPLE_BROKER_URL"] = broker_url
        self.celery = Celery("client", broker=broker_url or url, set_as_current=False)
        self.celery.conf.update(conf)
        self.redis = redis.Redis.from_url(url, decode_responses=True)

    def worker(self, *arguments: str, wait: bool = True, **conf: Any) -> WorkerProcess:
        """Return a worker, not yet started; ``conf`` holds further Celery settings."""
        merged = json.dumps({**json.loads(self.env["SAMPLE_CONF"]), **conf})
        return WorkerProcess(APP, *arguments, env={**self.env, "SAMPLE_CONF": merged}, wait=wait)

    def send(self, task: str, *args: Any, **options: Any) -> Sent:
        """Send a task by the short name of its function."""
        return Sent(self.celery.send_task(f"{APP}.{task}", args, **options).id, self)

    def run(self, task: str, *args: Any, **options: Any) -> Any:
        """Send a task and return its result, or raise its exception."""
        return self.send(task, *args, **options).get()

    def notes(self) -> list[str]:
        """Return what the tasks have noted, in order."""
        return list(self.redis.lrange("notes", 0, -1))

    def wait_for_note(self, note: str, times: int = 1) -> None:
        """Return when ``note`` has been noted ``times`` times."""
        wait_until(lambda: self.notes().count(note) >= times, f"note {note!r} in {self.notes()}")

    def release(self, name: str) -> None:
        """Let ``hold(name)`` end."""
        self.redis.set(f"release:{name}", 1)

    def unacked(self) -> int:
        """Return how many messages are with a worker."""
        return int(self.redis.hlen("unacked"))

    def queued(self) -> list[str]:
        """Return the task IDs in the queue, the next to be delivered first."""
        raw = reversed(self.redis.lrange("celery", 0, -1))
        return [json.loads(each)["headers"]["id"] for each in raw]

    def inspect(self, worker: WorkerProcess, what: str) -> Any:
        """Return the answer of ``worker`` to ``celery inspect <what>``."""
        # Celery logs that it is ready a moment before it subscribes, so a request may be lost.
        replies: Any = wait_until(
            getattr(self.celery.control.inspect([worker.hostname], timeout=5, limit=1), what),
            f"a reply to inspect {what}",
        )
        return replies[worker.hostname]

    def control(self, worker: WorkerProcess, command: str, **arguments: Any) -> Any:
        """Return the answer of ``worker`` to ``celery control <command>``."""
        self.inspect(worker, "ping")  # wait until it is subscribed: no command may be sent twice
        replies = self.celery.control.broadcast(
            command, arguments, [worker.hostname], reply=True, timeout=5, limit=1
        )
        return replies[0][worker.hostname]

    def close(self) -> None:
        """Close all connections, also those that Celery would leave to the garbage collector."""
        self.celery.close()
        kombu.pools.reset()
        self.redis.close()


@contextmanager
def sample_app(url: str, broker_url: str | None = None, **conf: Any) -> Iterator[SampleApp]:
    """Yield a :class:`SampleApp` whose connections are closed at the end."""
    client = SampleApp(url, broker_url, **conf)
    with closing(client):
        yield client
