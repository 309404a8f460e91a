"""``/v1/responses``: OpenAI's background mode over the queue."""

import contextlib
import json
from typing import Any, Final

from aiohttp import web
from pydantic_core import from_json

from berlin_schemas.events import TERMINAL_TYPES
from berlin_worker.client.stream import Stream
from berlin_worker.client.values import JobStatus
from berlin_worker.errors import ClientError, Unavailable
from berlin_worker.gateway.attachment import Events, attached
from berlin_worker.gateway.chat_format import Object
from berlin_worker.gateway.event_stream import HEADERS, EventResponse
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
    """Submit a response. In background mode return its present state at once."""
    gateway, caller = request.app[GATEWAY], need(request, "submit")
    wanted = parse_request(await json_object(request))
    job = await gateway.providers.completed(wanted.job)
    job, job_id = job_of_caller(request, caller, job)
    if not wanted.background:
        return await _answered(request, job, job_id, stream=wanted.stream)
    job_id = await gateway.client.submit(job, job_id=job_id)
    status = await gateway.client.status(job_id)
    writer = _writer(gateway, status, model=job.get("model"))
    if not wanted.stream:
        return web.json_response(writer.response(), headers={"x-job-id": job_id})
    async with gateway.client.stream(job_id) as stream:
        return await _streamed(request, job_id, _followed(gateway, stream), writer, after=-1)


async def _answered(
    request: web.Request, job: Object, job_id: str | None, *, stream: bool
) -> web.StreamResponse:
    """Answer a request that is not in the background; if its caller leaves, cancel the job."""
    gateway = request.app[GATEWAY]
    async with attached(request, job, job_id) as attachment:
        status = await gateway.client.status(attachment.job_id)
        writer = _writer(gateway, status, model=job.get("model"), background=False)
        if stream:
            events = attachment.events()
            return await _streamed(request, attachment.job_id, events, writer, after=-1)
        async with contextlib.aclosing(attachment.events()) as batches:
            async for batch in batches:
                for event in batch or ():
                    writer.events(event)
    return web.json_response(writer.response(), headers={"x-job-id": status.job_id})


@routes.get("/v1/responses/{response_id}")
async def retrieve(request: web.Request) -> web.StreamResponse:
    """Return a response, or its events after ``starting_after``."""
    gateway = request.app[GATEWAY]
    status = await owned_job(request, "read", _job_id(request))
    if request.query.get("stream") == "true":
        after = whole_number(request, "starting_after", -1, least=0, most=_MOST_EVENTS)
        if request.method == "HEAD":
            return web.Response(headers=HEADERS)
        async with gateway.client.stream(status.job_id) as stream:
            events = _followed(gateway, stream)
            writer = _writer(gateway, status)
            return await _streamed(request, status.job_id, events, writer, after=after)
    return web.json_response(await _snapshot(gateway, status))


@routes.post("/v1/responses/{response_id}/cancel")
async def cancel(request: web.Request) -> web.Response:
    """Cancel a response; one that has ended stays as it is."""
    gateway = request.app[GATEWAY]
    status = await owned_job(request, "cancel", _job_id(request))
    await gateway.client.cancel(status.job_id)
    with contextlib.suppress(TimeoutError):
        await gateway.ended(status.job_id)
    status = await gateway.client.status(status.job_id)
    return web.json_response(await _snapshot(gateway, status))


def _job_id(request: web.Request) -> str:
    return request.match_info["response_id"].removeprefix(PREFIX)


def _writer(
    gateway: Gateway, status: JobStatus, *, model: Any = None, background: bool = True
) -> ResponseWriter:
    return ResponseWriter(
        status.job_id,
        gateway.model_of(model),
        int(status.created_ts or 0),
        dict(status.metadata),
        background=background,
    )


async def _snapshot(gateway: Gateway, status: JobStatus) -> Object:
    """Return a response by the events that the log of its job has now.

    Raises ``Unavailable`` if the log is slower with what its record says than ``lookup_s``.
    """
    writer, after, ended = _writer(gateway, status), 0, False
    while not ended:
        due = after < status.seq or status.status in TERMINAL_TYPES
        events, ended = await gateway.poll(status.job_id, after, gateway.lookup_s if due else 0)
        if not events:
            if due and not ended:
                raise Unavailable("the log of a job was not read in time")
            break
        after = events[-1].seq
        for raw in events:
            writer.events(from_json(raw.data))
    return writer.response()


async def _followed(gateway: Gateway, stream: Stream) -> Events:
    """Yield the events of a job whose reader may come back, and ``None`` for a ping."""
    async with contextlib.aclosing(gateway.followers.batches(stream)) as batches:
        async for batch in batches:
            yield None if batch is None else [from_json(raw.data) for raw in batch]


async def _streamed(
    request: web.Request, job_id: str, batches: Events, writer: ResponseWriter, *, after: int
) -> web.StreamResponse:
    """Stream the events whose number is above ``after``.

    The job is read from its start, because the numbers follow from all of its events.
    """
    out = EventResponse(request, {"x-job-id": job_id}, _PING)
    made = writer.created()
    await out.write(_frames(made, after))
    try:
        async with contextlib.aclosing(batches):
            async for batch in batches:
                if batch is None:
                    await out.ping()
                    continue
                made = [each for event in batch for each in writer.events(event)] or made
                await out.write(_frames(made, after))
    except (Problem, ClientError) as error:
        problem = error if isinstance(error, Problem) else of_client(error)
        # The error has the number of the last event, so that a reader that resumes misses none.
        await out.write([_error(problem, made[-1]["sequence_number"])])
    await out.finish()
    return out.response


def _frames(events: list[Object], after: int) -> list[bytes]:
    return [_frame(event) for event in events if event["sequence_number"] > after]


def _frame(event: dict[str, Any]) -> bytes:
    data = json.dumps(event, ensure_ascii=False, separators=(",", ":"))
    return f"event: {event['type']}\ndata: {data}\n\n".encode()


def _error(problem: Problem, number: int) -> bytes:
    shown = {"code": problem.code, "message": problem.message, "param": problem.param}
    return _frame({"type": "error", "sequence_number": number, **shown})
