"""The environment of a chaos test: a Redis, an upstream and workers that a test may harm.

Sizes: the short form is for CI. ``make chaos`` sets ``BERLIN_CHAOS=full`` for the table in the
README. ``BERLIN_CHAOS_SEED`` repeats the random choices of a run.
"""

import os
import random
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import TracebackType
from typing import Any, Literal, Self

import redis
from celery import Celery
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from berlin_schemas import names
from berlin_worker.client import Client
from berlin_worker.config import urls
from berlin_worker.config.broker_url import for_kombu
from berlin_worker.embedded.redis_server import RedisProcess
from berlin_worker.embedded.topology import Cluster, SentinelSet
from berlin_worker.storage import connections, nodes
from tests.support.history import History
from tests.support.upstream_process import UpstreamProcess
from tests.support.workers import WorkerProcess, wait_until

FULL = os.environ.get("BERLIN_CHAOS") == "full"

Kind = Literal["client", "bare"]
Servers = RedisProcess | SentinelSet | Cluster


def size(short: int, full: int) -> int:
    """Return the size of a run, or a limit in seconds: short runs are several at a time."""
    return full if FULL else short


def chance() -> random.Random:
    """Return random numbers of the test's own; pytest shows the printed seed if the test fails."""
    seed = int(os.environ.get("BERLIN_CHAOS_SEED") or secrets.randbelow(10**6))
    print(f"BERLIN_CHAOS_SEED={seed}")  # noqa: T201  # pytest shows it
    return random.Random(seed)


def words(name: str, count: int) -> str:
    """Return a reply of ``count`` chunks that differs from that of every other job."""
    return " ".join(f"{name}.{n}" for n in range(count))


class Environment(AbstractContextManager["Environment"]):
    """Producers, workers, an upstream and the history, around a Redis of the test's own.

    The history reads ``redis_url``, a way that no fault touches. Workers and producers use
    ``worker_url`` and ``client_url``, which may lead through a proxy, if they are given. The queue
    is on that server too, or on ``broker_url``. ``servers`` are those of ``redis_url``, for tests
    that harm them. ``reread``: see ``History``. Workers find the upstream by its settings, so it
    may be behind a proxy, too.
    """

    def __init__(
        self,
        redis_url: str,
        upstream: UpstreamProcess,
        *,
        worker_url: str | None = None,
        client_url: str | None = None,
        broker_url: str | None = None,
        servers: Servers | None = None,
        reread: bool = False,
        **env: str,
    ) -> None:
        self.redis_url = redis_url
        self.servers = servers
        self.upstream = upstream
        self.env = {"REDIS_URL": worker_url or redis_url, **upstream.environ, **env}
        if broker_url is not None:
            self.env["CELERY_BROKER_URL"] = broker_url
        self._reread = reread
        self._client_url = client_url or redis_url
        self._broker_url = broker_url or self._client_url
        self._queue_url = broker_url if urls.is_redis(broker_url or "") else None
        self._stack = ExitStack()
        self._sent = 0

    def __enter__(self) -> Self:
        close = self._stack.callback
        retry = Retry(ExponentialBackoff(), 10)
        self.redis = connections.blocking(self.redis_url, timeout_s=30, retry=retry)
        close(self.redis.close)
        self.broker = self.redis
        if self._queue_url is not None:
            self.broker = connections.blocking(self._queue_url, timeout_s=30, retry=retry)
            close(self.broker.close)
        self.history = self._stack.enter_context(self.new_history())
        self.client = self._stack.enter_context(Client(self._client_url, self._broker_url))
        broker = for_kombu(self._broker_url)
        self._app = Celery(broker=broker.url, set_as_current=False)
        # Else a producer cannot know whether RabbitMQ has its message. Others ignore the option.
        self._app.conf.broker_transport_options = {
            "confirm_publish": True,
            **broker.transport_options,
        }
        self._app.conf.broker_use_ssl = broker.use_ssl
        self._app.conf.broker_transport = broker.transport
        close(self._app.close)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def new_history(self) -> History:
        """Return a history without jobs; a test enters it and sets it as ``history``."""
        return History(
            self.redis,
            self._client_url,
            reread=self._reread,
            broker_url=self._broker_url,
            broker=self.broker,
        )

    @property
    def nodes(self) -> list[redis.Redis]:
        """A client of each primary, and of each replica that is known."""
        found = nodes.nodes_of_blocking(self.redis_url, timeout_s=30)
        return [self._stack.enter_context(redis.Redis.from_url(node.url)) for node in found]

    def worker(self, *arguments: str, **env: str) -> WorkerProcess:
        """Return a worker, not yet started; ``env`` holds further settings."""
        return WorkerProcess("berlin_worker", *arguments, env=self.env | env)

    def submit(
        self,
        text: str | None = None,
        faults: str = "",
        *,
        how: Kind = "client",
        chunks: int = 20,
        follow: bool = False,
        endings: Iterable[str] = (),
        whole: bool = True,
        **fields: Any,
    ) -> str:
        """Submit a job, enter it into the history, and return its ID.

        The upstream will reply ``text``, or ``chunks`` words if it is ``None``. ``faults`` go
        before it in the prompt (``[[delay:0.05]]``). With ``whole=False``, for faults that change
        the text, it is not compared. ``fields`` are those of the job object.
        """
        self._sent += 1
        text = words(f"job{self._sent}", chunks) if text is None else text
        job = {"messages": [{"role": "user", "content": f"{faults} {text}".strip()}], **fields}
        job_id = names.new_job_id()
        if how == "client":
            self.client.submit(job, job_id=job_id)
        else:
            self.send(job, job_id)
        self.history.accept(
            job_id,
            text if whole else None,
            on_interrupt=fields.get("on_interrupt", "restart"),
            how=how,
            endings=endings,
            follow=follow,
        )
        return job_id

    def send(self, job: Any, job_id: str) -> None:
        """Send a job by a bare ``send_task``, as a producer that has only the contract does."""
        self._app.send_task(names.TASK, args=[job], queue=names.QUEUE, task_id=job_id)

    def streaming(self, job_ids: Iterable[str], chunks: int = 1, attempt: int = 1) -> bool:
        """Return whether each job, in this attempt or a later one, has published ``chunks``.

        Only chunks since its last reset count.
        """
        with self.redis.pipeline(transaction=False) as pipeline:
            for job_id in job_ids:
                pipeline.hmget(names.state_key(job_id), "chunks", "attempt")
            replies = [[int(number or 0) for number in reply] for reply in pipeline.execute()]
        return all(count >= chunks and number >= attempt for count, number in replies)


class Replicas(AbstractContextManager["Replicas"]):
    """Workers that a supervisor keeps running: it replaces each one that ends.

    ``start`` makes a worker, not yet started.
    """

    def __init__(self, count: int, start: Callable[[], WorkerProcess]) -> None:
        self._make = start
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._supervise, daemon=True)
        self.workers = [start() for _ in range(count)]
        self.restarts = 0

    def kill(self, number: int) -> None:
        """Send SIGKILL to one of them, ready or not."""
        with self._lock:
            self.workers[number].kill()

    def stop(self) -> None:
        """Let each worker end in order, and replace none."""
        self._ended.set()
        self._thread.join()
        for worker in self.workers:
            worker.stop()

    def __enter__(self) -> Self:
        with ExitStack() as started:
            for worker in self.workers:
                started.enter_context(worker)
            self._thread.start()
            started.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()
        for worker in self.workers:
            worker.__exit__(kind, error, tb)

    def _supervise(self) -> None:
        while not self._ended.wait(0.1):
            for number, worker in enumerate(self.workers):
                with self._lock:
                    if worker.process.poll() is not None:
                        self.restarts += 1
                        self.workers[number] = self._make().start(wait=False)


@contextmanager
def in_background(work: Callable[[], None]) -> Iterator[None]:
    """Do ``work`` in a thread while the block runs; wait for its end, and raise what it raised."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  # raised again, in the test
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    if errors:
        raise errors[0]


def begun(site: Environment, streams: int) -> list[str]:
    """Return jobs that stream, half of them with a reader; as many others wait."""
    job_ids = [
        site.submit(
            None,
            "[[delay:0.1]]",
            chunks=size(80, 120),
            follow=n % 2 == 0,
            how=("client", "bare")[n % 2],
        )
        for n in range(streams)
    ]
    wait_until(lambda: site.streaming(job_ids), "all stream")
    for n in range(streams):
        site.submit(None, how=("client", "bare")[n % 2])
    return job_ids
