"""The tasks of the sample app, for the tests of the pool: they note in Redis what happens."""

import asyncio
import contextlib
import threading
import time
from contextvars import ContextVar
from typing import Any

from celery import Celery, Task, current_task, signals
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded, WorkerShutdown
from greenlet import GreenletExit

from berlin_worker.pool import cancel_cause
from tests.sample_app.app import app, note, releases
from tests.sample_app.class_task import RetryInAClass


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


app.register_task(RetryInAClass())
# As in a process that imports a second project: it is the default of all threads.
Celery("another").set_default()
