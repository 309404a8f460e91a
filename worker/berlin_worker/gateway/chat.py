"""``/v1/chat/completions`` and ``/v1/models``: OpenAI's clients over the queue."""

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Final

from aiohttp import web
from pydantic_core import from_json

from berlin_worker.client.stream import Stream
from berlin_worker.errors import ClientError
from berlin_worker.gateway.chat_format import Answer, ChatRequest, ChunkWriter, Head, parse_request
from berlin_worker.gateway.event_stream import EventResponse
from berlin_worker.gateway.gateway import GATEWAY, Gateway, need
from berlin_worker.gateway.idempotency import may_be_attached
from berlin_worker.gateway.problems import Problem, of_client, of_terminal
from berlin_worker.gateway.requests import job_of_caller, json_object

routes: Final = web.RouteTableDef()

# One newline: openai-python would read a comment and an empty line as an event without data.
_PING: Final = b": waiting\n"
_DONE: Final = b"data: [DONE]\n\n"
_FAILURES: Final = frozenset({"failed", "cancelled"})


@routes.post("/v1/chat/completions")
async def complete(request: web.Request) -> web.StreamResponse:
    """Run a chat as a job, and answer as OpenAI does: in one piece or as a stream."""
    gateway, caller = request.app[GATEWAY], need(request, "submit")
    wanted = parse_request(await json_object(request))
    job, job_id = job_of_caller(request, caller, wanted.job)
    stream = gateway.client.submit_and_stream(job, job_id=job_id)
    head = Head(stream.job_id, gateway.model_of(job.get("model")), int(time.time()))
    async with _cancelled_if_abandoned(gateway, stream):
        if wanted.stream:
            return await _streamed(request, gateway, stream, head, wanted)
        return await _whole(gateway, stream, head)


@contextlib.asynccontextmanager
async def _cancelled_if_abandoned(gateway: Gateway, stream: Stream) -> AsyncIterator[None]:
    """Cancel the job after a while if the block ends before the job does."""
    # Others may attach to a job with a key, at another gateway, too: the last one counts.
    caller_id = secrets.token_hex(8) if may_be_attached(stream.job_id) else ""
    gateway.callers[stream.job_id] += 1
    try:
        async with stream:
            if caller_id:
                await gateway.client.attach(stream.job_id, caller_id)
            yield
    except (asyncio.CancelledError, ConnectionResetError):
        gateway.cancel_later(stream.job_id, caller_id)
        raise
    finally:
        gateway.callers[stream.job_id] -= 1
        if not gateway.callers[stream.job_id]:
            del gateway.callers[stream.job_id]


async def _streamed(
    request: web.Request, gateway: Gateway, stream: Stream, head: Head, wanted: ChatRequest
) -> web.StreamResponse:
    out = EventResponse(request, {"x-job-id": stream.job_id}, _PING)
    writer = ChunkWriter(head, include_usage=wanted.include_usage)
    try:
        async with contextlib.aclosing(_events(gateway, stream)) as parts:
            async for events in parts:
                if events is None:
                    await out.ping()
                elif frames := [
                    _frame(chunk) for event in events for chunk in writer.chunks(event)
                ]:
                    await out.write(frames)
        await out.write([_DONE])
    except (Problem, ClientError) as error:
        problem = error if isinstance(error, Problem) else of_client(error)
        if not out.begun:
            raise problem from None
        await out.write([_frame({"error": problem.as_object()})])
    await out.finish()
    return out.response


async def _whole(gateway: Gateway, stream: Stream, head: Head) -> web.Response:
    answer = Answer()
    completed: dict[str, Any] = {}
    async with contextlib.aclosing(_events(gateway, stream)) as parts:
        async for events in parts:
            for event in events or ():
                head.learn(event)
                answer.add(event)
                completed = event
    made = answer.as_object(head, completed)
    return web.json_response(made, headers={"x-job-id": stream.job_id})


async def _events(
    gateway: Gateway, stream: Stream
) -> AsyncGenerator[list[dict[str, Any]] | None, None]:
    """Yield the events up to ``completed``, and ``None`` for a ping.

    Raises a :class:`Problem` for a job that fails, waits too long for a worker, or is cut off by
    the end of the gateway.
    """
    clock = asyncio.get_running_loop().time
    give_up, ended = clock() + gateway.settings.gateway_wait_s, False
    started = False
    async with contextlib.aclosing(gateway.chats.batches(stream)) as batches:
        async for batch in batches:
            if batch is None:
                if not started and clock() > give_up:
                    await gateway.client.cancel(stream.job_id, "no worker took it in time")
                    raise Problem(504, "no_worker", "no worker has taken the job in time")
                yield None
                continue
            started = True
            events = [from_json(raw.data) for raw in batch]
            for event in events:
                if event["type"] in _FAILURES:
                    raise of_terminal(event)
            ended = events[-1]["type"] == "completed"
            yield events
    if not ended:
        if not may_be_attached(stream.job_id):  # else the request comes again, elsewhere
            gateway.cancel_later(stream.job_id)
        raise Problem(503, "stopping", "the gateway is shutting down: send the request again")


def _frame(chunk: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % json.dumps(chunk, ensure_ascii=False, separators=(",", ":")).encode()
