"""A stand-in for the Berlin upstream, for the demo and the tests.

It speaks the true protocol: login, tokens that expire, replies in JSON lines. It
counts its calls, and fails on request (:mod:`berlin_worker.embedded.faults`).

    async with Upstream() as upstream: ...             # in the running event loop
    with upstream_in_thread() as upstream: ...         # in a thread of its own

Counters and methods may be used from any thread.
"""

import asyncio
import uuid
from contextlib import AbstractContextManager
from typing import Any, Literal

from aiohttp import web

from berlin_worker.embedded.call_record import IssuedTokens, OrderedFaults
from berlin_worker.embedded.faults import Plan, in_prompt, parse
from berlin_worker.embedded.replies import pleasant_reply, send
from berlin_worker.embedded.stand_in import Call, Reply, StandIn, in_thread

__all__ = ["Call", "Reply", "Upstream", "upstream_in_thread"]


class Upstream(StandIn):
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
        super().__init__(reply, chunk_delay_s, host, port)
        self.account = account
        self.password = password
        self._tokens = IssuedTokens(token_max_age_s, token_max_uses)
        self._login_faults = OrderedFaults()
        self.login_calls = 0
        """Login requests, successful or not."""
        self.logins = 0
        """Logins that returned a token."""
        self.refused = 0
        """Completions answered 401."""

    def routes(self) -> list[web.RouteDef]:
        """Return the two calls of the protocol."""
        return [
            web.post("/api/login", self._on_login),
            web.post("/api/chat/completions", self._on_completion),
        ]

    @property
    def environ(self) -> dict[str, str]:
        """Return the environment of a worker that uses this upstream."""
        return {
            "BERLIN_URL": self.url,
            "BERLIN_ACCOUNT": self.account,
            "BERLIN_PASSWORD": self.password,
        }

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
        if on == "completion":
            super().inject(fault, times=times)
        else:
            with self._lock:
                self._login_faults.add(parse(fault, times))

    def clear_faults(self) -> None:
        """Remove all ordered faults."""
        super().clear_faults()
        with self._lock:
            self._login_faults.clear()

    def expire_tokens(self) -> None:
        """Make every issued token invalid."""
        with self._lock:
            self._tokens.expire()

    async def _on_login(self, request: web.Request) -> web.StreamResponse:
        body = await self._received(request)
        with self._lock:
            self.login_calls += 1
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
        body = await self._received(request)
        with self._lock:
            self.completion_calls += 1
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
        with self._counted(plan):
            return await send(request, plan, self._secrets(request))

    def _secrets(self, request: web.Request) -> tuple[str, ...]:
        return request.headers.get("token", ""), self.account, self.password


def upstream_in_thread(**options: Any) -> AbstractContextManager[Upstream]:
    """Run an :class:`Upstream` with these options in a thread with its own event loop."""
    return in_thread(Upstream(**options))


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
