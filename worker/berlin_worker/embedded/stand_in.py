"""The common part of the stand-in upstreams: a server that counts its calls and fails on request.

Counters and methods may be used from any thread.
"""

import asyncio
import contextlib
import re
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from aiohttp import web

from berlin_schemas.jobs import LARGEST_JOB_BYTES
from berlin_worker.embedded.call_record import OrderedFaults
from berlin_worker.embedded.faults import Fault, Plan, parse

_WORD: Final = re.compile(r"\S+\s*|\s+")
_KEPT_CALLS: Final = 1000
_MAX_BODY_BYTES: Final = 2 * LARGEST_JOB_BYTES

Reply = str | bytes | Callable[[str], str | bytes]
"""The text of every reply, or a function from prompt to text; bytes are sent unchanged."""


@dataclass(frozen=True, slots=True)
class Call:
    """One received request; header names are lower-case."""

    path: str
    headers: Mapping[str, str]
    body: Any


class StandIn:
    """The server. ``port=0``: any free port. The context manager may be entered again.

    ``chunk_delay_s``: seconds before each chunk.
    """

    def __init__(self, reply: Reply, chunk_delay_s: float, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self._reply = reply
        self._chunk_delay_s = chunk_delay_s
        # Guards the attributes below: tests read and change them from other threads.
        self._lock = threading.Lock()
        self._completion_faults = OrderedFaults()
        self._calls: deque[Call] = deque(maxlen=_KEPT_CALLS)
        self._runner: web.AppRunner | None = None
        self.completion_calls = 0
        """Completion requests, successful or not."""
        self.completions = 0
        """Replies sent completely."""
        self.open_streams = 0
        """Completions in progress."""
        self.max_open_streams = 0
        self.disconnects = 0
        """Clients that disconnected before the end of their reply."""

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the protocol."""
        raise NotImplementedError

    @property
    def url(self) -> str:
        """The address, without a path."""
        return f"http://{self.host}:{self.port}"

    @property
    def calls(self) -> list[Call]:
        """Return the last 1,000 requests, oldest first."""
        with self._lock:
            return list(self._calls)

    def inject(self, fault: str, *, times: int | None = 1) -> None:
        """Apply ``fault`` to the next ``times`` completions; ``None``: to all.

        The faults are those of :data:`berlin_worker.embedded.faults.FAULTS`; several add up.
        Raises ``ValueError`` for an unknown fault.
        """
        with self._lock:
            self._completion_faults.add(parse(fault, times))

    def clear_faults(self) -> None:
        """Remove all ordered faults."""
        with self._lock:
            self._completion_faults.clear()

    async def start(self) -> None:
        """Start to listen at :attr:`url`. Raises ``OSError`` if the port is taken."""
        app = web.Application(client_max_size=_MAX_BODY_BYTES)
        app.router.add_routes(self.routes())
        # aiohttp cancels the handler when its client disconnects: so the stand-in counts it.
        self._runner = web.AppRunner(
            app, handler_cancellation=True, access_log=None, shutdown_timeout=0.01
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.host, self.port, backlog=4096)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Close all connections."""
        # Cleared first: a handler that ends from here on is not a client that disconnects.
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        await self.stop()

    async def _received(self, request: web.Request) -> Any:
        """Return the body of a request, which is kept among :attr:`calls`."""
        body = None
        with contextlib.suppress(ValueError):
            body = await request.json()
        headers = {name.lower(): value for name, value in request.headers.items()}
        with self._lock:
            self._calls.append(Call(request.path, headers, body))
        return body

    def _plan(self, prompt: str, brought: list[Fault]) -> Plan:
        made = self._reply(prompt) if callable(self._reply) else self._reply
        if isinstance(made, bytes):
            plan = Plan(raw=made, delay_s=self._chunk_delay_s)
        else:
            plan = Plan(chunks=tuple(_WORD.findall(made)), delay_s=self._chunk_delay_s)
        return self._completion_faults.apply(self._completion_faults.brought(plan, prompt, brought))

    @contextlib.contextmanager
    def _counted(self, plan: Plan) -> Iterator[None]:
        """Count the reply that ``plan`` describes, which the block sends."""
        with self._lock:
            self.open_streams += 1
            self.max_open_streams = max(self.max_open_streams, self.open_streams)
        ended = left = False
        try:
            yield
            ended = plan.status == web.HTTPOk.status_code
        except (ConnectionError, asyncio.CancelledError):
            left = plan.end != "cut" and plan.silent != "drop" and self._runner is not None
            raise
        finally:
            with self._lock:
                self.open_streams -= 1
                self.completions += ended
                self.disconnects += left


_Server = TypeVar("_Server", bound=StandIn)


@contextlib.contextmanager
def in_thread(upstream: _Server) -> Iterator[_Server]:
    """Run a stand-in in a thread with its own event loop."""
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def serve() -> None:
        try:
            await upstream.start()
        except OSError as error:
            started.set_exception(error)
            return
        stop = asyncio.Event()
        started.set_result((asyncio.get_running_loop(), stop))
        await stop.wait()
        await upstream.stop()

    thread = threading.Thread(target=asyncio.run, args=(serve(),), name="upstream", daemon=True)
    thread.start()
    loop, stop = started.result()
    try:
        yield upstream
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
