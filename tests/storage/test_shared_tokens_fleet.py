"""One login per expiry over real processes: all at once, killed, stopped, refused."""

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest
import redis.asyncio
from aiohttp import web
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from berlin_worker.embedded.redis_server import RedisProcess, find_server
from berlin_worker.errors import JobError
from berlin_worker.settings import Settings
from berlin_worker.storage.shared_tokens import RedisTokens
from tests.support.fork_server import PythonProcess

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
PROCESSES = 4
CALLERS = 50


class LoginServer:
    """Issues ``secret-1``, ``secret-2``, ...; can delay the first login, or refuse all."""

    def __init__(self) -> None:
        self.pids: list[int] = []
        self.times: list[float] = []
        self.refuse = False
        self.hold_first = False
        self.release = asyncio.Event()

    @property
    def logins(self) -> int:
        return len(self.pids)

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/api/login", self._login)
        self._runner = web.AppRunner(app, shutdown_timeout=0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{port}/api/login"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.release.set()
        await self._runner.cleanup()

    async def _login(self, request: web.Request) -> web.Response:
        self.pids.append((await request.json())["pid"])
        self.times.append(time.monotonic())
        turn = self.logins
        if self.hold_first and turn == 1:
            await self.release.wait()
        else:
            await asyncio.sleep(0.05)  # long enough for a herd, if there were one
        if self.refuse:
            return web.json_response({}, status=401)
        return web.json_response({"token": f"secret-{turn}"})


class Worker:
    """One process of the fleet; its commands stand in ``token_process.py``."""

    def __init__(self, process: PythonProcess[bytes]) -> None:
        self._process: Any = process  # its pipes are open
        self.pid = process.pid

    @classmethod
    async def start(cls, *arguments: str) -> Self:
        process = PythonProcess[bytes](
            [sys.executable, "-m", "tests.storage.token_process", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            cwd=ROOT,
        )
        worker = cls(process)
        assert await worker._line() == b"ready\n"
        return worker

    async def _line(self) -> bytes:
        line: bytes = await asyncio.to_thread(self._process.stdout.readline)
        return line

    def send(self, do: str, callers: int = CALLERS) -> None:
        self._process.stdin.write(json.dumps({"do": do, "callers": callers}).encode() + b"\n")
        self._process.stdin.flush()

    async def ask(self, do: str, callers: int = CALLERS) -> dict[str, Any]:
        self.send(do, callers)
        return await self.answer()

    async def answer(self) -> dict[str, Any]:
        return json.loads(await self._line())

    async def end(self) -> None:
        self._process.kill()
        await asyncio.to_thread(self._process.communicate)


@pytest.fixture
async def server() -> AsyncIterator[LoginServer]:
    async with LoginServer() as server:
        yield server


@pytest.fixture
async def fleet(
    real_redis_url: str, server: LoginServer, keys_expire: Callable[[], None]
) -> AsyncIterator[list[Worker]]:
    """Four processes; a login may take three seconds, so the lock of a dead one lives six."""
    settings = json.dumps({"login_timeout_s": 3})
    starts = (Worker.start(real_redis_url, server.url, settings) for _ in range(PROCESSES))
    workers = await asyncio.gather(*starts)
    yield workers
    await asyncio.gather(*(worker.end() for worker in workers))


@pytest.fixture
def keys_expire(real_redis_url: str) -> Iterator[Callable[[], None]]:
    """A check, also made after each test of a fleet: keys are under ``token:`` and expire."""
    with redis.Redis.from_url(real_redis_url) as client:

        def check() -> None:
            keys = list(client.scan_iter())
            assert keys
            for key in keys:
                assert key.startswith(b"token:")
                assert client.pttl(key) > 0, key

        yield check
        check()


async def ask_all(fleet: list[Worker], do: str) -> list[dict[str, Any]]:
    return await asyncio.gather(*(worker.ask(do) for worker in fleet))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110  # other processes set no event
            await asyncio.sleep(0.01)


def only(token: str) -> dict[str, Any]:
    return {"tokens": [token], "errors": {}}


async def test_two_hundred_callers_in_four_processes_log_in_once(
    fleet: list[Worker], server: LoginServer
) -> None:
    assert await ask_all(fleet, "get") == [only("secret-1")] * PROCESSES
    assert server.logins == 1


async def test_401_for_two_hundred_jobs_is_one_login_more(
    fleet: list[Worker], server: LoginServer
) -> None:
    await ask_all(fleet, "get")
    for turn in (2, 3, 4):
        assert await ask_all(fleet, "refused") == [only(f"secret-{turn}")] * PROCESSES
        assert server.logins == turn


async def test_late_process_uses_the_shared_token(fleet: list[Worker], server: LoginServer) -> None:
    *early, late = fleet
    await ask_all(fleet, "get")
    await ask_all(early, "refused")
    assert await late.ask("refused") == only("secret-2")
    assert server.logins == 2


async def test_wrong_credentials_reach_the_upstream_no_faster_than_the_back_off(
    fleet: list[Worker], server: LoginServer
) -> None:
    server.refuse = True
    for worker in fleet:
        worker.send("hammer")
    await until(lambda: server.logins >= 4)
    results = await ask_all(fleet, "stop")
    for result in results:
        assert not result["tokens"]
        assert set(result["errors"]) == {"auth_failed"}
    # The n-th pause is at least half of 0.5 s times 2**n; the factor leaves room for rounding.
    # The pause after the fourth login does not count: the callers stop during it.
    gaps = [after - before for before, after in itertools.pairwise(server.times[:4])]
    for turn, gap in enumerate(gaps):
        assert gap > 0.24 * 2**turn
    assert sum(result["errors"]["auth_failed"] for result in results) > 10 * server.logins


async def test_processes_continue_when_the_one_that_logs_in_is_killed(
    fleet: list[Worker], server: LoginServer, keys_expire: Callable[[], None]
) -> None:
    server.hold_first = True
    for worker in fleet:
        worker.send("get")
    await until(lambda: server.logins == 1)
    keys_expire()
    os.kill(server.pids[0], signal.SIGKILL)
    others = [worker for worker in fleet if worker.pid != server.pids[0]]
    assert len(others) == PROCESSES - 1
    for worker in others:
        assert await worker.answer() == only("secret-2")
    assert server.logins == 2


async def test_process_that_slept_through_its_lock_takes_the_newer_token(
    fleet: list[Worker], server: LoginServer, real_redis_url: str
) -> None:
    server.hold_first = True
    for worker in fleet:
        worker.send("get")
    await until(lambda: server.logins == 1)
    [sleeper] = [worker for worker in fleet if worker.pid == server.pids[0]]
    os.kill(sleeper.pid, signal.SIGSTOP)
    with redis.Redis.from_url(real_redis_url) as client:
        [lock] = client.keys("token:*:lock")
        client.pexpire(lock, 1)  # as if time had passed: the test need not wait
    for worker in fleet:
        if worker is not sleeper:
            assert await worker.answer() == only("secret-2")
    server.release.set()
    os.kill(sleeper.pid, signal.SIGCONT)
    # Its login has an answer or has timed out. Either way another process has a newer token.
    assert await sleeper.answer() == only("secret-2")
    assert await ask_all(fleet, "refused") == [only("secret-3")] * PROCESSES
    assert server.logins == 3


async def test_valid_token_is_used_without_redis_and_no_process_logs_in(
    redis_server: RedisProcess,  # skips if there is no server to start
) -> None:
    binary = find_server()
    assert binary is not None
    logins = []

    async def login() -> str:
        logins.append(1)
        return f"secret-{len(logins)}"

    with RedisProcess(binary) as server:
        once = Retry(NoBackoff(), 0)
        async with redis.asyncio.Redis.from_url(server.url, retry=once) as client:
            source = RedisTokens(client, Settings()).source("berlin", "someone", login)
            token = await source.get()
            server.kill()
            assert await source.get() is token
            with pytest.raises(JobError, match="Redis fails"):
                await source.invalidate(token)
            with pytest.raises(JobError, match="Redis fails"):
                await source.get()
            assert len(logins) == 1
            server.start()
            assert (await source.get()).value == "secret-2"
