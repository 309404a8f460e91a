"""One client in several event loops, threads and processes: it works, or one error at once."""

import asyncio
import contextlib
import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from berlin_worker.client import AsyncClient, Client, ClientError
from berlin_worker.settings import Settings
from tests.client.test_sync import write
from tests.support.client_helpers import QUICK

pytestmark = pytest.mark.contract

ELSEWHERE = "another event loop or process"


async def first(stream: Any) -> Any:
    return await anext(stream)


CALLS: dict[str, Callable[[AsyncClient], Any]] = {
    "submit": lambda client: client.submit("x"),
    "stream": lambda client: first(client.stream("job-1")),
    "submit_and_stream": lambda client: first(client.submit_and_stream("x")),
    "cancel": lambda client: client.cancel("job-1"),
    "result": lambda client: client.result("job-1"),
    "status": lambda client: client.status("job-1"),
    "list": lambda client: client.list(),
    "sse": lambda client: first(client.sse("job-1")),
    "aclose": lambda client: client.aclose(),
    "aenter": lambda client: client.__aenter__(),
}


async def made(client: AsyncClient, name: str) -> Any:
    return await CALLS[name](client)


@pytest.fixture
def used(fake_redis_url):
    """A client that another event loop has used, which is still there."""
    loop = asyncio.new_event_loop()
    client = AsyncClient(fake_redis_url, settings=Settings(), options=QUICK)
    loop.run_until_complete(client.submit("x"))
    yield client
    loop.run_until_complete(client.aclose())
    loop.close()


@pytest.mark.parametrize("name", CALLS)
def test_async_client_in_another_event_loop_is_an_error_at_once(used, name):
    with asyncio.Runner() as runner, pytest.raises(ClientError, match=ELSEWHERE):
        runner.run(asyncio.wait_for(made(used, name), 10))


@pytest.mark.parametrize("name", CALLS)
def test_async_client_in_another_thread_is_an_error_at_once(used, name):
    with ThreadPoolExecutor(1) as threads:
        ran = threads.submit(asyncio.run, made(used, name))
        with pytest.raises(ClientError, match=ELSEWHERE):
            ran.result(30)


@pytest.mark.parametrize("name", [name for name in CALLS if name not in {"aclose", "aenter"}])
def test_closed_async_client_is_an_error(fake_redis_url, name):
    async def work() -> None:
        client = AsyncClient(fake_redis_url, settings=Settings(), options=QUICK)
        await client.submit("x")
        await client.aclose()
        await client.aclose()
        with pytest.raises(ClientError, match="closed"):
            await asyncio.wait_for(made(client, name), 10)

    asyncio.run(work())


def test_async_client_without_an_event_loop_is_an_error_that_names_the_other_client(
    fake_redis_url,
):
    client = AsyncClient(fake_redis_url, settings=Settings(), options=QUICK)
    for call in (client.stream, client.submit_and_stream, client.sse):
        with pytest.raises(ClientError, match="use Client"):
            call("x")


def test_client_may_be_made_in_no_loop_and_used_in_one(fake_redis_url):
    client = AsyncClient(fake_redis_url, settings=Settings(), options=QUICK)

    async def work() -> str:
        async with client:
            return await client.submit("x", job_id="mine")

    assert asyncio.run(work()) == "mine"


def test_stream_that_another_loop_has_opened_is_an_error_and_harms_no_other_reader(
    fake_redis_url,
):
    write(fake_redis_url, "job-1", "a", "b")

    async def work() -> list[int]:
        async with AsyncClient(fake_redis_url, settings=Settings(), options=QUICK) as client:
            stream = client.stream("job-1")
            await stream.start()
            for call in (stream.batch, stream.start):
                with pytest.raises(ClientError, match=ELSEWHERE):
                    await asyncio.to_thread(asyncio.run, call())
            seen = [event.seq async for event in stream]
            other = client.stream("job-1")
            await other.start()
            await asyncio.to_thread(other.close)
            with pytest.raises(StopAsyncIteration):
                await other.batch()
            return seen

    assert asyncio.run(work()) == [1, 2, 3, 4]


def test_many_threads_and_loops_share_a_sync_client(fake_redis_url):
    write(fake_redis_url, "job-1", "a", "b")
    with Client(fake_redis_url, settings=Settings(), options=QUICK) as client:

        async def in_a_loop() -> str:
            return client.result("job-1").text

        with ThreadPoolExecutor(8) as threads:
            found = [threads.submit(asyncio.run, in_a_loop()) for _ in range(4)]
            found += [threads.submit(client.result, "job-1") for _ in range(4)]
            texts = {
                f if isinstance(f, str) else f.text for f in (each.result(30) for each in found)
            }
        assert texts == {"ab"}


@pytest.mark.parametrize("used_before", [False, True])
def test_closed_sync_client_is_an_error(fake_redis_url, used_before):
    client = Client(fake_redis_url, settings=Settings(), options=QUICK)
    if used_before:
        client.submit("x")
    client.close()
    for call in (client.submit, client.stream, client.status, client.cancel, client.result):
        with pytest.raises(ClientError, match="closed"):
            call("x")
    with pytest.raises(ClientError, match="closed"):
        next(iter(client.sse("x")))
    with pytest.raises(ClientError, match="closed"):
        client.list()


def child(work: Callable[[], object], ending: str) -> None:
    """Exit with 0 if ``work`` ends by ``ending``: "fine", or a text of a ``ClientError``."""
    message = "fine"
    try:
        work()
    except ClientError as error:
        message = str(error)
    os._exit(0 if ending in message else 1)


def exit_code(work: Callable[[], object], ending: str) -> int | None:
    process = multiprocessing.get_context("fork").Process(target=child, args=(work, ending))
    process.start()
    process.join(60)
    if process.exitcode is None:
        process.kill()
    return process.exitcode


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # it forks with threads, on purpose
def test_clients_after_a_fork_work_or_name_the_reason(real_redis_url):
    write(real_redis_url, "job-1", "a", "b")
    with Client(real_redis_url, settings=Settings(), options=QUICK) as client:
        stream = client.stream("job-1")
        next(stream)
        held, release = threading.Event(), threading.Event()

        def hold() -> None:  # as a thread of the parent may at the moment of the fork
            with client._lock, client._portal._lock:
                held.set()
                release.wait(60)

        holder = threading.Thread(target=hold)
        holder.start()
        held.wait(60)
        assert exit_code(lambda: client.result("job-1"), "fine") == 0
        assert exit_code(lambda: list(client.stream("job-1")), "fine") == 0
        stream._ready.clear()
        assert exit_code(lambda: next(stream), "before a fork") == 0
        release.set()
        holder.join()
        stream.close()
    assert exit_code(lambda: client.submit("x"), "closed") == 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # it forks with threads, on purpose
def test_async_client_is_not_used_on_after_a_fork(real_redis_url):
    client = AsyncClient(real_redis_url, settings=Settings(), options=QUICK)

    async def work() -> int | None:
        async with client:
            await client.submit("x")

            def go_on() -> None:
                with contextlib.suppress(RuntimeError):
                    asyncio.events._set_running_loop(None)
                asyncio.run(client.status("x"))

            return exit_code(go_on, ELSEWHERE)

    assert asyncio.run(work()) == 0
