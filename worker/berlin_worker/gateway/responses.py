"""``/v1/responses``: OpenAI's background mode over the queue."""

import contextlib
import json
from typing import Any, Final

from aiohttp import web
from pydantic_core import from_json

from berlin_worker.client.stream import Stream
from berlin_worker.client.values import JobStatus
from berlin_worker.errors import ClientError
from berlin_worker.gateway.chat_format import Object
from berlin_worker.gateway.event_stream import EventResponse
from berlin_worker.gateway.gateway import GATEWAY, Gateway, need
from berlin_worker.gateway.problems import Problem, of_client
from berlin_worker.gateway.requests import job_of_caller, json_object, owned_job, whole_number
from berlin_worker.gateway.responses_format import PREFIX, ResponseWriter
from berlin_worker.gateway.responses_request import parse_request

routes: Final = web.RouteTableDef()

_PING: Final = b": waiting\n"
_MOST_EVENTS: Final = 999_999_999


@routes.post("/v1/responses")
async def create(request: web.Request) -> web.StreamResponse:
    """Submit a response. In the background the answer is the response as it is at once."""
    gateway, caller = request.app[GATEWAY], need(request, "submit")
    wanted = parse_request(await json_object(request))
    job, job_id = job_of_caller(request, caller, wanted.job)
    job_id = await gateway.client.submit(job, job_id=job_id)
    status = await gateway.client.status(job_id)
    if wanted.stream:
        return await _streamed(request, gateway, status, after=-1)
    if not wanted.background:
        return await _whole(gateway, status)
    return web.json_response(_writer(gateway, status).response(), headers={"x-job-id": job_id})


@routes.get("/v1/responses/{response_id}")
async def retrieve(request: web.Request) -> web.StreamResponse:
    """Return a response, or its events after ``starting_after``."""
    gateway = request.app[GATEWAY]
    status = await owned_job(request, "read", _job_id(request))
    if request.query.get("stream") == "true":
        after = whole_number(request, "starting_after", -1, least=0, most=_MOST_EVENTS)
        return await _streamed(request, gateway, status, after=after)
    return web.json_response(await _snapshot(gateway, status))


@routes.post("/v1/responses/{response_id}/cancel")
async def cancel(request: web.Request) -> web.Response:
    """Cancel a response; one that has ended stays as it is."""
    gateway = request.app[GATEWAY]
    status = await owned_job(request, "cancel", _job_id(request))
    await gateway.client.cancel(status.job_id)
    with contextlib.suppress(TimeoutError):
        await gateway.ended(status.job_id)
    return web.json_response(await _snapshot(gateway, status))


def _job_id(request: web.Request) -> str:
    return request.match_info["response_id"].removeprefix(PREFIX)


def _writer(gateway: Gateway, status: JobStatus) -> ResponseWriter:
    created = int(status.created_ts or 0)
    return ResponseWriter(status.job_id, gateway.model_of(None), created, dict(status.metadata))


async def _whole(gateway: Gateway, status: JobStatus) -> web.Response:
    writer = _writer(gateway, status)
    async with (
        gateway.client.stream(status.job_id) as stream,
        contextlib.aclosing(gateway.chats.batches(stream)) as batches,
    ):
        async for batch in batches:
            for raw in batch or ():
                writer.events(from_json(raw.data))
    return web.json_response(writer.response(), headers={"x-job-id": status.job_id})


async def _snapshot(gateway: Gateway, status: JobStatus) -> Object:
    """Return a response as far as the log of its job goes now."""
    writer, after, ended = _writer(gateway, status), 0, False
    while not ended:
        events, ended = await gateway.poll(status.job_id, after, 0)
        if not events:
            break
        after = events[-1].seq
        for raw in events:
            writer.events(from_json(raw.data))
    return writer.response()


async def _streamed(
    request: web.Request, gateway: Gateway, status: JobStatus, *, after: int
) -> web.StreamResponse:
    """Stream the events whose number is above ``after``.

    The job is read from its start, because the numbers follow from all of its events.
    """
    out = EventResponse(request, {"x-job-id": status.job_id}, _PING)
    writer = _writer(gateway, status)
    await out.write(_frames(writer.created(), after))
    async with gateway.client.stream(status.job_id) as stream:
        try:
            await _relay(out, gateway, stream, writer, after)
        except ClientError as error:
            await out.write([_error(of_client(error))])
    await out.finish()
    return out.response


async def _relay(
    out: EventResponse, gateway: Gateway, stream: Stream, writer: ResponseWriter, after: int
) -> None:
    async with contextlib.aclosing(gateway.followers.batches(stream)) as batches:
        async for batch in batches:
            if batch is None:
                await out.ping()
                continue
            made = [event for raw in batch for event in writer.events(from_json(raw.data))]
            await out.write(_frames(made, after))


def _frames(events: list[Object], after: int) -> list[bytes]:
    return [_frame(event) for event in events if event["sequence_number"] > after]


def _frame(event: dict[str, Any]) -> bytes:
    data = json.dumps(event, ensure_ascii=False, separators=(",", ":"))
    return f"event: {event['type']}\ndata: {data}\n\n".encode()


def _error(problem: Problem) -> bytes:
    shown = {"type": "error", "code": problem.code, "message": problem.message, "param": None}
    return b"event: error\ndata: %b\n\n" % json.dumps(shown).encode()
