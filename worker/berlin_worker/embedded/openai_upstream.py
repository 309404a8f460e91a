"""A stand-in for OpenAI-compatible servers, for the demo and the tests.

It speaks chat completions with server-sent events, counts its calls, and fails on order
(:mod:`berlin_worker.embedded.faults`), as the stand-in for Berlin does.

    async with OpenAIUpstream() as upstream: ...       # in the running event loop
    with in_thread(OpenAIUpstream()) as upstream: ...  # in a thread of its own
"""

import itertools
from typing import Any

from aiohttp import web

from berlin_worker.embedded.faults import Plan, in_prompt
from berlin_worker.embedded.openai_replies import Answer, error_body
from berlin_worker.embedded.replies import error_reply, pleasant_reply, send
from berlin_worker.embedded.stand_in import Reply, StandIn


class OpenAIUpstream(StandIn):
    """The server. ``port=0``: any free port. ``key=""``: none is asked for."""

    def __init__(
        self,
        *,
        key: str = "sk-stand-in-0123456789",
        models: tuple[str, ...] = ("stand-in", "stand-in-small"),
        reply: Reply = pleasant_reply,
        chunk_delay_s: float = 0.0,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        super().__init__(reply, chunk_delay_s, host, port)
        self.key = key
        self._models = models
        self._numbers = itertools.count(1)

    @property
    def environ(self) -> dict[str, str]:
        """Return the environment of a worker that uses this upstream."""
        key = {"OPENAI_API_KEY": self.key} if self.key else {}
        return {"OPENAI_BASE_URL": f"{self.url}/v1", **key}

    @property
    def prompts(self) -> list[str]:
        """Return the last text of each completion among :attr:`calls`."""
        return [_prompt(call.body) for call in self.calls if call.body]

    def routes(self) -> list[web.RouteDef]:
        """Return the two calls of the protocol that are used."""
        return [
            web.post("/v1/chat/completions", self._on_completion),
            web.get("/v1/models", self._on_models),
        ]

    async def _on_models(self, request: web.Request) -> web.StreamResponse:
        await self._received(request)
        if refusal := self._refusal(request):
            return refusal
        listed = [{"id": name, "object": "model", "created": 0} for name in self._models]
        return web.json_response({"object": "list", "data": listed})

    async def _on_completion(self, request: web.Request) -> web.StreamResponse:
        body = await self._received(request)
        with self._lock:
            self.completion_calls += 1
        if refusal := self._refusal(request) or _bad_request(body):
            return refusal
        prompt = _prompt(body)
        try:
            brought = in_prompt(prompt)
        except ValueError as error:
            return _error(400, str(error))
        with self._lock:
            plan = self._plan(prompt, brought)
        is_asked = bool((body.get("stream_options") or {}).get("include_usage"))
        if plan.usage == "refused" and "stream_options" in body:
            plan = Plan(status=400, body="usage")
        with self._counted(plan):
            if plan.status != web.HTTPOk.status_code and not plan.silent:
                message = f"{plan.status} as ordered"
                if plan.leak:
                    message = f"refused: {self.key} / {prompt}"
                return error_reply(plan, (), error_body(plan.body, message))
            number = next(self._numbers)
            answer = Answer(plan, number, body["model"], prompt, is_asked=is_asked)
            page = plan.raw is not None and not plan.raw.startswith(b"data:")
            content_type = "text/html" if page else "text/event-stream; charset=utf-8"
            return await send(request, plan, (), answer.events(), content_type)

    def _refusal(self, request: web.Request) -> web.Response | None:
        given = request.headers.get("Authorization", "")
        if not self.key or given == f"Bearer {self.key}":
            return None
        shown = given.removeprefix("Bearer ")
        message = f"Incorrect API key provided: {shown[:8]}*****{shown[-4:]}."
        body = error_body("", message, "invalid_request_error")
        return web.json_response(body, status=401)


def _bad_request(body: Any) -> web.Response | None:
    if not isinstance(body, dict) or body.get("stream") is not True:
        return _error(400, "this stand-in streams: set stream to true")
    messages = body.get("messages")
    if not isinstance(body.get("model"), str) or not isinstance(messages, list) or not messages:
        return _error(422, "model and messages are required")
    return None


def _error(status: int, message: str) -> web.Response:
    return web.json_response(error_body("", message, "invalid_request_error"), status=status)


def _prompt(body: Any) -> str:
    """Return the text of the last message."""
    messages = body.get("messages") if isinstance(body, dict) else None
    content = messages[-1].get("content") if messages else ""
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content)
    return content or ""
