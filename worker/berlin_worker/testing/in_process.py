"""A worker in a thread of the test's process, on a fakeredis of its own.

It runs jobs with the code of real workers, so real clients, and any Celery producer, can use
it. It is one process and never dies, so no job is reaped. A scheduled message (``eta``) runs
at once.
"""

import asyncio
import contextlib
import logging
import secrets
import threading
from collections.abc import AsyncGenerator, Callable, Mapping
from types import TracebackType
from typing import Any, Final, Self

import redis.asyncio
from kombu.connection import Connection
from kombu.entity import Queue
from kombu.messaging import Consumer

from berlin_schemas import PromptJob, names
from berlin_worker.broker.guard import is_lost_connection
from berlin_worker.client import AsyncClient, Client
from berlin_worker.embedded.redis_server import fake_redis
from berlin_worker.jobs.journal import Journal
from berlin_worker.jobs.leases import Leases
from berlin_worker.jobs.retry import RetryPolicy
from berlin_worker.jobs.runner import Runner
from berlin_worker.providers.base import Provider, Report, Services
from berlin_worker.providers.echo import EchoProvider
from berlin_worker.providers.http import open_session
from berlin_worker.providers.tokens.local import LocalTokens
from berlin_worker.settings import Settings
from berlin_worker.storage import cancel_listener, job_store
from berlin_worker.storage.job_store import RedisStore

logger = logging.getLogger(__name__)

_POLL_S: Final = 0.1
_SCRIPTS: Final = job_store.SCRIPTS

MakeProvider = Callable[[Services], Provider]


class _AnyOptions(EchoProvider):
    """Repeats the prompt for jobs that are meant for another provider, with its options."""

    def check(self, job: PromptJob) -> None:
        super().check(job.model_copy(update={"options": {}}))

    def stream(self, job: PromptJob, report: Report) -> AsyncGenerator[list[str], None]:
        return super().stream(job.model_copy(update={"options": {}}), report)


class InProcessWorker:
    """A worker, its queue and its event store; a context manager.

    ``providers`` are the test's own by name, each a class or function that takes
    :class:`~berlin_worker.providers.base.Services`. Every other name repeats the prompt.
    """

    def __init__(self, providers: Mapping[str, MakeProvider] | None = None) -> None:
        self.redis_url = ""
        self._make = dict(providers or {})
        self._settings = Settings()
        self._stack = contextlib.ExitStack()
        self._stop = threading.Event()
        self._ready = threading.Event()
        self._failed: BaseException | None = None

    def client(self) -> Client:
        """Return a synchronous client of this worker; the caller closes it."""
        return Client(self.redis_url, settings=self._settings)

    def async_client(self) -> AsyncClient:
        """Return an asynchronous client of this worker; the caller closes it."""
        return AsyncClient(self.redis_url, settings=self._settings)

    def __enter__(self) -> Self:
        self.redis_url = self._stack.enter_context(fake_redis())
        thread = threading.Thread(target=self._work, name="berlin-test-worker", daemon=True)
        thread.start()
        self._stack.callback(thread.join)
        self._stack.callback(self._stop.set)
        self._ready.wait()
        if self._failed is not None:
            self._stack.close()
            raise self._failed
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._stack.close()
        if self._failed is not None and error is None:
            raise self._failed

    def _work(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # goes to the test's thread
            self._failed = error
            if self._ready.is_set():
                logger.exception("the worker of the test has ended")
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        settings = self._settings
        async with (
            redis.asyncio.Redis.from_url(self.redis_url) as client,
            open_session(settings) as http,
        ):
            for script in _SCRIPTS:  # fakeredis hangs up on a client that names an unknown script
                await client.script_load(script)
            services = Services(http, LocalTokens(), settings, {})
            store, runner, journal, leases = _core(
                client, settings, _providers(self._make, services)
            )
            background = [
                asyncio.create_task(work)
                for work in (
                    journal.run(),
                    leases.renew_forever(),
                    _update_index(store),
                    cancel_listener.listen(
                        client, runner.cancel, flagged=cancel_listener.flags(client)
                    ),
                )
            ]
            try:
                await self._deliver(runner)
                await journal.drained()
            finally:
                await _cancelled(background)
                await store.aclose()

    async def _deliver(self, runner: Runner) -> None:
        loop, running = asyncio.get_running_loop(), set[asyncio.Task[Any]]()

        def deliver(job_id: str, args: list[object], kwargs: dict[str, object]) -> None:
            task = loop.create_task(runner.run(job_id, args, kwargs))
            running.add(task)
            task.add_done_callback(running.discard)

        await asyncio.to_thread(self._consume, lambda *message: _call(loop, deliver, *message))
        await _cancelled(running)

    def _consume(self, deliver: Callable[..., None]) -> None:
        def received(body: Any, message: Any) -> None:
            match body, message.headers:
                case [list() as args, dict() as kwargs, _], {"task": names.TASK, "id": job_id}:
                    deliver(job_id, args, kwargs)
                case _:
                    logger.error("a message that is no job was dropped")

        queue: Any = Queue(names.QUEUE)  # type: ignore[no-untyped-call]  # kombu
        with (
            Connection(self.redis_url) as connection,  # type: ignore[no-untyped-call]  # kombu
            Consumer(  # type: ignore[no-untyped-call]  # kombu
                connection, [queue], callbacks=[received], accept=["json"], no_ack=True
            ),
        ):
            self._ready.set()
            while not self._stop.is_set():
                try:
                    connection.drain_events(timeout=_POLL_S)
                except TimeoutError:
                    continue
                except Exception as error:  # a message may have any shape
                    if is_lost_connection(error):
                        raise
                    logger.exception("a message that cannot be read was dropped")


def _call(loop: asyncio.AbstractEventLoop, deliver: Callable[..., None], *message: Any) -> None:
    loop.call_soon_threadsafe(deliver, *message)


class _NoJobQueue:
    """A job queue that does nothing: one process loses no job."""

    async def requeue(self, job_id: str, job: bytes, trace: bytes = b"") -> None:
        """Do nothing."""

    async def depth(self) -> int:
        """Return 0."""
        return 0


async def _discard(*record: object) -> None:
    """Do nothing: no reaper runs here that would find a record that cannot run."""


def _core(
    client: redis.asyncio.Redis, settings: Settings, provider: Callable[[str], Provider]
) -> tuple[RedisStore, Runner, Journal, Leases]:
    owner = f"in-process/{secrets.token_hex(4)}"
    store = RedisStore.from_settings(client, settings, owner=owner)
    journal = Journal(store, buffer_bytes=settings.journal_buffer_bytes)
    leases = Leases(
        store,
        lease_s=settings.lease_s,
        renew_interval_s=settings.renew_interval_s,
        reap_interval_s=settings.reap_interval_s,
        job_queue=_NoJobQueue(),
        discard=_discard,
        stats=journal.stats,
    )
    runner = Runner(
        store=store,
        journal=journal,
        leases=leases,
        provider=provider,
        policy=RetryPolicy(settings.max_attempts, 0.01, settings.retry_max_s),
        proxies=settings.proxies,
        cancel_cause=lambda: None,
    )
    return store, runner, journal, leases


def _providers(make: Mapping[str, MakeProvider], services: Services) -> Callable[[str], Provider]:
    built = {name: each(services) for name, each in make.items()}
    echo, any_options = EchoProvider(services), _AnyOptions(services)

    def provider(name: str) -> Provider:
        return built.get(name) or (echo if name == "echo" else any_options)

    return provider


async def _update_index(store: RedisStore) -> None:
    """Keep the list of jobs up to date; a worker does it when it looks for expired leases."""
    while True:
        await asyncio.sleep(_POLL_S)
        await store.update_index()


async def _cancelled(tasks: Any) -> None:
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=0.5)
