"""A stand-in for the Berlin upstream, for the demo and the tests.

It speaks the true protocol: login, tokens that expire, replies in JSON lines. It
counts its calls, and fails on order (:mod:`berlin_worker.embedded.faults`).

    async with Upstream() as upstream: ...             # in the running event loop
    with upstream_in_thread() as upstream: ...         # in a thread of its own

Counters and methods may be used from any thread.
"""

import asyncio
import contextlib
import re
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Literal, Self

from aiohttp import web

from berlin_worker.embedded.call_record import IssuedTokens, OrderedFaults
from berlin_worker.embedded.faults import Fault, Plan, in_prompt, parse
from berlin_worker.embedded.replies import pleasant_reply, send

_WORD: Final = re.compile(r"\S+\s*|\s+")
_KEPT_CALLS: Final = 1000

Reply = str | bytes | Callable[[str], str | bytes]
"""The text of every reply, or a function from prompt to text; bytes are sent unchanged."""


@dataclass(frozen=True, slots=True)
class Call:
    """One received request; header names are lower-case."""

    path: str
    headers: Mapping[str, str]
    body: Any


class Upstream:
    """The server. ``port=0``: any free port. The context manager may be entered again.

    A token is valid for ``token_max_age_s`` seconds and ``token_max_uses`` completions;
    ``None``: no limit. ``chunk_delay_s``: seconds before each chunk.
    """

    def __init__(
        self,
        *,
        account: str = "demo@example.org",
        password: str = "correct horse",  # noqa: S107  # a public password of this stand-in alone
        reply: Reply = pleasant_reply,
        chunk_delay_s: float = 0.0,
        token_max_age_s: float | None = None,
        token_max_uses: int | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.account = account
        self.password = password
        self.host = host
        self.port = port
        self._reply = reply
        self._chunk_delay_s = chunk_delay_s
        # Guards the attributes below: tests read and change them from other threads.
        self._lock = threading.Lock()
        self._tokens = IssuedTokens(token_max_age_s, token_max_uses)
        self._login_faults = OrderedFaults()
        self._completion_faults = OrderedFaults()
        self._calls: deque[Call] = deque(maxlen=_KEPT_CALLS)
        self._runner: web.AppRunner | None = None
        self.login_calls = 0
        """Login requests, successful or not."""
        self.logins = 0
        """Logins that returned a token."""
        self.completion_calls = 0
        """Completion requests, successful or not."""
        self.completions = 0
        """Replies sent completely."""
        self.refused = 0
        """Completions answered 401."""
        self.open_streams = 0
        """Completions in progress."""
        self.max_open_streams = 0
        self.disconnects = 0
        """Clients that disconnected before the end of their reply."""

    @property
    def url(self) -> str:
        """The value for ``BERLIN_URL``."""
        return f"http://{self.host}:{self.port}"

    @property
    def environ(self) -> dict[str, str]:
        """Return the environment of a worker that uses this upstream."""
        return {
            "BERLIN_URL": self.url,
            "BERLIN_ACCOUNT": self.account,
            "BERLIN_PASSWORD": self.password,
        }

    @property
    def calls(self) -> list[Call]:
        """Return the last 1,000 requests, oldest first."""
        with self._lock:
            return list(self._calls)

    @property
    def prompts(self) -> list[str]:
        """Return the prompts of the completions among :attr:`calls`."""
        return [call.body["prompt"] for call in self.calls if _is_completion(call.body)]

    def inject(
        self,
        fault: str,
        *,
        times: int | None = 1,
        on: Literal["completion", "login"] = "completion",
    ) -> None:
        """Apply ``fault`` to the next ``times`` calls; ``None``: to all.

        The faults are those of :data:`berlin_worker.embedded.faults.FAULTS`; several add up.
        Raises ``ValueError`` for an unknown fault.
        """
        with self._lock:
            ordered = self._login_faults if on == "login" else self._completion_faults
            ordered.add(parse(fault, times))

    def clear_faults(self) -> None:
        """Remove all ordered faults."""
        with self._lock:
            self._login_faults.clear()
            self._completion_faults.clear()

    def expire_tokens(self) -> None:
        """Make every issued token invalid."""
        with self._lock:
            self._tokens.expire()

    async def start(self) -> None:
        """Start to listen at :attr:`url`. Raises ``OSError`` if the port is taken."""
        app = web.Application(client_max_size=16 * 1024 * 1024)
        app.router.add_post("/api/login", self._on_login)
        app.router.add_post("/api/chat/completions", self._on_completion)
        # aiohttp cancels the handler when its client disconnects: so it is noticed.
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

    async def _on_login(self, request: web.Request) -> web.StreamResponse:
        body = await _json(request)
        with self._lock:
            self.login_calls += 1
            self._calls.append(_call(request, body))
            plan = self._login_faults.apply(Plan())
        await asyncio.sleep(plan.delay_s)
        if plan == Plan(delay_s=plan.delay_s):
            if body != {"account": self.account, "password": self.password}:
                return web.json_response({"code": 401, "message": "wrong credentials"}, status=401)
            with self._lock:
                self.logins += 1
                token = self._tokens.issue()
            return web.json_response({"code": 0, "data": {"token": token}})
        return await send(request, plan, self._secrets(request))

    async def _on_completion(self, request: web.Request) -> web.StreamResponse:
        body = await _json(request)
        with self._lock:
            self.completion_calls += 1
            self._calls.append(_call(request, body))
        if not _is_completion(body):
            return web.json_response({"code": 400, "message": "no completion"}, status=400)
        prompt: str = body["prompt"]
        try:
            brought = in_prompt(prompt)
        except ValueError as error:
            return web.json_response({"code": 400, "message": str(error)}, status=400)
        with self._lock:
            plan = self._plan(prompt, brought)
            if plan.expire:
                self._tokens.expire()
            if not self._tokens.use(request.headers.get("token", "")):
                plan = Plan(status=401)
            self.refused += plan.status == web.HTTPUnauthorized.status_code
            self.open_streams += 1
            self.max_open_streams = max(self.max_open_streams, self.open_streams)
        ended = left = False
        try:
            response = await send(request, plan, self._secrets(request))
        except (ConnectionError, asyncio.CancelledError):
            left = plan.end != "cut" and plan.silent != "drop" and self._runner is not None
            raise
        else:
            ended = plan.status == web.HTTPOk.status_code
            return response
        finally:
            with self._lock:
                self.open_streams -= 1
                self.completions += ended
                self.disconnects += left

    def _plan(self, prompt: str, brought: list[Fault]) -> Plan:
        made = self._reply(prompt) if callable(self._reply) else self._reply
        if isinstance(made, bytes):
            plan = Plan(raw=made, delay_s=self._chunk_delay_s)
        else:
            plan = Plan(chunks=tuple(_WORD.findall(made)), delay_s=self._chunk_delay_s)
        return self._completion_faults.apply(self._completion_faults.brought(plan, prompt, brought))

    def _secrets(self, request: web.Request) -> tuple[str, ...]:
        return request.headers.get("token", ""), self.account, self.password


@contextlib.contextmanager
def upstream_in_thread(**options: Any) -> Iterator[Upstream]:
    """Run an :class:`Upstream` with these options in a thread with its own event loop."""
    upstream = Upstream(**options)
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


async def _json(request: web.Request) -> Any:
    with contextlib.suppress(ValueError):
        return await request.json()
    return None


def _call(request: web.Request, body: Any) -> Call:
    headers = {name.lower(): value for name, value in request.headers.items()}
    return Call(request.path, headers, body)


def _is_completion(body: Any) -> bool:
    if not isinstance(body, dict) or set(body) != {"prompt", "parentMessageId", "options"}:
        return False
    try:
        version = uuid.UUID(body["parentMessageId"]).version
    except (ValueError, TypeError, AttributeError):
        return False
    options = body["options"]
    return (
        isinstance(body["prompt"], str)
        and isinstance(options, dict)
        and isinstance(options.get("model"), str)
        and version == 4  # noqa: PLR2004  # the version of UUID that the protocol asks for
    )
