"""The thread of the event loop: lifespans that fail, loops that crash, tasks that do not end."""

import asyncio
import builtins
import contextlib
import threading

import pytest

from berlin_worker.pool import thread as module
from berlin_worker.pool.thread import LifespanError, LoopThread, loop_factory

pytestmark = pytest.mark.unit


class Calls:
    """What the owner of the thread receives."""

    def __init__(self):
        self.crashes, self.exited = [], threading.Event()
        self.crashed = threading.Event()

    def on_crash(self, error):
        self.crashes.append(error)
        self.crashed.set()


@contextlib.contextmanager
def running(lifespan):
    calls = Calls()
    thread = LoopThread(lifespan, on_crash=calls.on_crash, on_exit=calls.exited.set)
    thread.start(lambda: None)
    try:
        yield thread, calls
    finally:
        thread.close()
        assert calls.exited.wait(60)
        assert thread.exited


def lifespan_that(*, enter=None, leave=None, inside=None):
    @contextlib.asynccontextmanager
    async def lifespan():
        if enter:
            raise enter
        if inside:
            asyncio.get_running_loop().call_soon(inside)
        yield
        if leave:
            raise leave

    return lifespan


def test_loop_answers_and_ends_when_it_is_closed():
    with running(lifespan_that()) as (thread, calls):
        answered = threading.Event()
        thread.call_soon(answered.set)
        assert answered.wait(60)
        assert thread.silent_s >= 0
        assert thread.implementation
    assert calls.crashes == []
    thread.call_soon(answered.set)  # nothing happens: the loop is gone


@pytest.mark.parametrize(
    ("error", "message"),
    [(ValueError("two\n lines"), "two lines"), (ValueError(), r"ValueError\(\)")],
)
def test_lifespan_that_cannot_be_entered_ends_the_start(error, message):
    with pytest.raises(LifespanError, match=message), running(lifespan_that(enter=error)):
        pass


def test_start_gives_up_if_its_poll_raises():
    calls, go_on = Calls(), threading.Event()

    @contextlib.asynccontextmanager
    async def lifespan():
        await asyncio.to_thread(go_on.wait)
        yield

    def poll():
        raise KeyboardInterrupt

    thread = LoopThread(lifespan, on_crash=calls.on_crash, on_exit=calls.exited.set)
    with pytest.raises(KeyboardInterrupt):
        thread.start(poll)
    go_on.set()
    assert thread._settled.wait(60)
    thread.close()
    assert calls.exited.wait(60)


def test_error_on_the_way_out_is_logged(caplog):
    with running(lifespan_that(leave=ValueError("late"))) as (_, calls):
        pass
    assert calls.crashes == []
    assert "The lifespan failed on its way out" in caplog.text


def test_lifespan_that_ends_by_itself_is_a_crash_and_tasks_clean_up():
    @contextlib.asynccontextmanager
    async def lifespan():
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().call_soon(task.cancel)
        yield

    with running(lifespan) as (thread, calls):
        assert calls.crashed.wait(60)
        cleaned = threading.Event()
        thread.call_soon(cleaned.set)
        assert cleaned.wait(60)
    assert isinstance(calls.crashes[0], asyncio.CancelledError)


def test_exit_of_a_task_does_not_end_the_loop(caplog):
    def leave():
        raise SystemExit(3)

    with running(lifespan_that(inside=leave)) as (thread, calls):
        answered = threading.Event()
        thread.call_soon(answered.set)
        assert answered.wait(60)
    assert calls.crashes == []
    assert "A child of a task raised SystemExit(3)" in caplog.text


def test_loop_that_cannot_be_made_is_a_crash(monkeypatch):
    def fail():
        raise OSError("no files")

    monkeypatch.setattr(module, "loop_factory", lambda: fail)
    with pytest.raises(LifespanError, match="no files"), running(lifespan_that()):
        pass


def test_loop_is_left_with_tasks_that_do_not_end(monkeypatch, caplog):
    monkeypatch.setattr(module, "_CLEANUP_TIMEOUT_S", 0.01)
    release = threading.Event()

    async def stubborn():
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.001)

    async def work():
        task = asyncio.create_task(stubborn())
        await asyncio.sleep(0)
        assert not await module._cancel_others()
        release.set()
        await task
        assert await module._cancel_others()

    asyncio.run(work())
    assert "Leaving while 1 child tasks do not end" in caplog.text


def test_loop_is_asyncios_own_without_uvloop(monkeypatch):
    imported = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "uvloop":
            raise ImportError(name)
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    assert loop_factory() is asyncio.new_event_loop
