"""``/v1/chat/completions``: OpenAI's clients over the queue."""

import contextlib
import json
import time
from typing import Any, Final

from aiohttp import web

from berlin_worker.errors import ClientError
from berlin_worker.gateway.attachment import Attachment, attached
from berlin_worker.gateway.chat_format import Answer, ChatRequest, ChunkWriter, Head, parse_request
from berlin_worker.gateway.event_stream import EventResponse
from berlin_worker.gateway.gateway import GATEWAY, need
from berlin_worker.gateway.problems import Problem, failure_of, of_client
from berlin_worker.gateway.requests import job_of_caller, json_object

routes: Final = web.RouteTableDef()

# One newline: openai-python would read a comment and an empty line as an event without data.
_PING: Final = b": waiting\n"
_DONE: Final = b"data: [DONE]\n\n"


@routes.post("/v1/chat/completions")
async def complete(request: web.Request) -> web.StreamResponse:
    """Run a chat as a job, and answer as OpenAI does: in one piece or as a stream."""
    gateway, caller = request.app[GATEWAY], need(request, "submit")
    wanted = parse_request(await json_object(request))
    job = await gateway.providers.completed(wanted.job)
    job, job_id = job_of_caller(request, caller, job)
    async with attached(request, job, job_id) as attachment:
        head = Head(attachment.job_id, gateway.model_of(job.get("model")), int(time.time()))
        if wanted.stream:
            return await _streamed(request, attachment, head, wanted)
        return await _whole(attachment, head)


async def _streamed(
    request: web.Request, attachment: Attachment, head: Head, wanted: ChatRequest
) -> web.StreamResponse:
    out = EventResponse(request, {"x-job-id": attachment.job_id}, _PING)
    writer = ChunkWriter(head, include_usage=wanted.include_usage)
    try:
        async with contextlib.aclosing(attachment.events()) as batches:
            async for events in batches:
                if events is None:
                    await out.ping()
                    continue
                failure = failure_of(events[-1])
                if failure is not None and not out.begun:
                    raise failure  # the status of an error is clearer than a part of the answer
                chunks = [_frame(chunk) for event in events for chunk in writer.chunks(event)]
                if chunks:
                    await out.write(chunks)
                if failure is not None:
                    raise failure
        await out.write([_DONE])
    except (Problem, ClientError) as error:
        problem = error if isinstance(error, Problem) else of_client(error)
        if not out.begun:
            raise problem from None
        await out.write([_frame({"error": problem.as_object()})])
    await out.finish()
    return out.response


async def _whole(attachment: Attachment, head: Head) -> web.Response:
    answer = Answer()
    last: dict[str, Any] = {}
    async with contextlib.aclosing(attachment.events()) as batches:
        async for events in batches:
            for event in events or ():
                head.learn(event)
                answer.add(event)
                last = event
    if (failure := failure_of(last)) is not None:
        raise failure
    return web.json_response(answer.as_object(head, last), headers={"x-job-id": attachment.job_id})


def _frame(chunk: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % json.dumps(chunk, ensure_ascii=False, separators=(",", ":")).encode()
