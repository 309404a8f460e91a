"""A Celery app for the tests of the pool. It notes in Redis what happens to its tasks."""

import asyncio
import contextlib
import json
import os
import threading
import time
from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import Any

import redis
from celery import Celery, Task, current_app, current_task, signals
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded, WorkerShutdown
from greenlet import GreenletExit
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from berlin_worker.pool import AsyncioTask, cancel_cause

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
# Asked again and again, also while a test cuts every connection there is.
releases = redis.Redis.from_url(URL, retry=Retry(ConstantBackoff(0.01), 10))
state: dict[str, Any] = {}


def note(*words: object) -> None:
    """Append one line to the list ``notes``; quick enough to block a test's loop."""
    notes.rpush("notes", " ".join(str(word) for word in words))


@contextlib.asynccontextmanager
async def lifespan(app: Celery) -> AsyncIterator[None]:
    note("lifespan-enter", app.main)
    state["lifespan_task"] = asyncio.current_task()
    try:
        yield
    finally:
        same = state["lifespan_task"] is asyncio.current_task()
        note("lifespan-exit", "same-task" if same else "other-task")


@contextlib.asynccontextmanager
async def failing_lifespan(app: Celery) -> AsyncIterator[None]:
    raise ValueError("no token for you")
    yield


@contextlib.asynccontextmanager
async def hanging_lifespan(app: Celery) -> AsyncIterator[None]:
    note("lifespan-hangs")
    await asyncio.Event().wait()
    yield


@contextlib.asynccontextmanager
async def failing_exit(app: Celery) -> AsyncIterator[None]:
    yield
    raise ValueError("cannot let go")


@contextlib.asynccontextmanager
async def hanging_exit(app: Celery) -> AsyncIterator[None]:
    yield
    await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def crashing_lifespan(app: Celery) -> AsyncIterator[None]:
    async def crash() -> None:
        await asyncio.to_thread(notes.blpop, ["crash"])
        raise ValueError("the heart stopped")

    async with asyncio.TaskGroup() as group:
        group.create_task(crash())
        yield


@app.task
async def add(a: int, b: int) -> int:
    await asyncio.sleep(0)
    return a + b


@app.task
def add_in_sync(a: int, b: int) -> str:
    return f"{a + b} in {threading.current_thread().name}"


@app.task
async def fail(message: str) -> None:
    await asyncio.sleep(0)
    raise ValueError(message)


@app.task(bind=True)
async def who_am_i(self: Task) -> dict[str, Any]:
    async def child() -> str:
        await asyncio.sleep(0)
        return str(self.request.id)

    await asyncio.sleep(0)
    task = asyncio.current_task()
    assert task is not None
    return {
        "request": self.request.id,
        "current_task": current_task.request.id,
        "child": await asyncio.create_task(child()),
        "asyncio_task": task.get_name(),
        "sent": (await asyncio.to_thread(parent_of.delay)).id,
        "thread": threading.current_thread().name,
    }


@app.task(bind=True)
async def parent_of(self: Task) -> str:
    await asyncio.sleep(0)
    return str(self.request.parent_id)


@app.task
async def call_another() -> int:
    value: int = await add(2, 3)
    return value


marker: ContextVar[str] = ContextVar("marker", default="unset")


@app.task
async def isolated(name: str) -> list[str]:
    before = marker.get()
    marker.set(name)
    await asyncio.sleep(0.05)
    return [before, marker.get()]


@signals.task_prerun.connect
def on_prerun(task_id: str, task: Task, **_: Any) -> None:
    if task.name.endswith("signalled"):
        note("prerun", task_id)
        marker.set("from-prerun")


@signals.task_postrun.connect
def on_postrun(task_id: str, task: Task, state: str | None, **_: Any) -> None:
    if task.name.endswith("signalled"):
        note("postrun", task_id, state, marker.get())


@app.task
async def signalled() -> str:
    await asyncio.sleep(0)
    return marker.get()


@app.task(bind=True, max_retries=2, default_retry_delay=0)
async def retry_twice(self: Task) -> int:
    await asyncio.sleep(0)
    if self.request.retries < 2:
        raise self.retry(countdown=0)
    retries: int = self.request.retries
    return retries


@app.task(bind=True, autoretry_for=(ValueError,), default_retry_delay=0, max_retries=2)
async def autoretry(self: Task) -> int:
    await asyncio.sleep(0)
    if self.request.retries < 1:
        raise ValueError("once more")
    retries: int = self.request.retries
    return retries


@app.task(ignore_result=True)
async def ignored_result() -> int:
    await asyncio.sleep(0)
    return 1


@app.task(bind=True)
async def predicate(self: Task, kind: str) -> None:
    note(kind, self.request.id)
    await asyncio.sleep(0)
    if kind == "ignore":
        raise Ignore
    raise Reject("no", requeue=False)


@app.task(bind=True)
async def requeue_once(self: Task) -> str:
    await asyncio.sleep(0)
    if not self.request.delivery_info["redelivered"]:
        raise Reject("again", requeue=True)
    return "redelivered"


ESCAPES: dict[str, type[BaseException]] = {
    each.__name__: each
    for each in (
        asyncio.CancelledError,
        KeyboardInterrupt,
        SystemExit,
        GreenletExit,
        WorkerShutdown,
        MemoryError,
    )
}


@app.task
async def escape(name: str) -> None:
    await asyncio.sleep(0)
    raise ESCAPES[name](7)


@app.task
def escape_in_sync(name: str) -> None:
    raise ESCAPES[name](7)


@app.task
async def escape_in_child(name: str) -> str:
    async def child() -> None:
        raise ESCAPES[name](7)

    lost = asyncio.create_task(child())
    await asyncio.sleep(0.05)
    lost.exception()
    return "survived"


@app.task(bind=True)
async def hold(self: Task, name: str, seconds: float = 60.0, cleanup_s: float = 0.0) -> str:
    """Wait until the key ``release:<name>`` exists; notes start, end and why it was cancelled."""
    note("start", name)
    try:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if await asyncio.to_thread(releases.exists, f"release:{name}"):
                break
            await asyncio.sleep(0.02)
    except asyncio.CancelledError:
        note("cancelling", name, cancel_cause(), self.request.id)
        await asyncio.sleep(cleanup_s)
        note("cancelled", name, cancel_cause())
        raise
    note("end", name)
    return name


@app.task(acks_late=False)
async def hold_early(name: str) -> None:
    await hold(name)


@app.task
async def cause_in_child(name: str) -> None:
    async def child() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            note("child", name, cancel_cause())
            raise

    note("start", name)
    async with asyncio.TaskGroup() as group:
        group.create_task(child())


@app.task
async def fail_in_cleanup(name: str) -> None:
    note("start", name)
    try:
        await asyncio.Event().wait()
    finally:
        raise ValueError("the clean-up failed")


@app.task
async def finish_anyway(name: str) -> str:
    note("start", name)
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.Event().wait()
    note("end", name)
    return "finished"


@app.task
async def never_stop(name: str) -> None:
    note("start", name)
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()


@app.task(soft_time_limit=0.1)
async def soft_limited(catch: bool) -> str:
    try:
        await asyncio.Event().wait()
    except SoftTimeLimitExceeded as limit:
        if not catch:
            raise
        await asyncio.sleep(0)
        return f"caught {limit}"
    return "never"


@app.task(soft_time_limit=0.1)
async def soft_limited_group() -> str:
    async def child() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            note("child", cancel_cause())
            raise

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(child())
    except SoftTimeLimitExceeded:
        with contextlib.suppress(TimeoutError):  # not raised if the task counts as cancelled
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        return "caught"
    return "never"


@app.task(time_limit=0.2)
async def hard_limited(name: str) -> None:
    await hold(name)


@app.task
def block(seconds: float) -> None:
    time.sleep(seconds)


@app.task(ignore_result=True)
async def noop() -> None:
    await asyncio.sleep(0)


@app.task(ignore_result=True)
async def sleep(seconds: float) -> None:
    await asyncio.sleep(seconds)


class RetryInAClass(Task):  # type: ignore[misc]  # celery has no type information
    """A task of a class that knows nothing of this pool."""

    name = "tests.sample_app.pool_app.retry_in_a_class"
    autoretry_for = (ValueError,)
    retry_kwargs = {"max_retries": 1, "countdown": 0}  # noqa: RUF012  # as Celery has it

    def run(self) -> str:
        if not self.request.retries:
            raise ValueError("once more")
        return f"{self.request.retries} in {current_app.main}"


app.register_task(RetryInAClass())
# As in a process that imports a second project: it is the default of all threads.
Celery("another").set_default()
