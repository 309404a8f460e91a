"""``/v1/jobs``: submit, look up, list, cancel and follow jobs."""

import contextlib
import dataclasses
import logging
import re
import time
from typing import Any, Final, get_args

from aiohttp import web

from berlin_schemas import names
from berlin_schemas.errors import ErrorCode
from berlin_schemas.events import TERMINAL_TYPES
from berlin_worker.client import sse
from berlin_worker.client.values import JobStatus, Result, Status
from berlin_worker.errors import (
    ClientError,
    CursorExpired,
    JobFailed,
    JobIdReused,
    SettingsError,
    Unavailable,
)
from berlin_worker.gateway import tickets
from berlin_worker.gateway.event_stream import HEADERS, EventResponse
from berlin_worker.gateway.gateway import GATEWAY, Gateway, caller_of, need
from berlin_worker.gateway.keys import Caller
from berlin_worker.gateway.problems import Problem, of_client
from berlin_worker.gateway.requests import job_of_caller, json_object, owned_job, whole_number

logger = logging.getLogger(__name__)

routes: Final = web.RouteTableDef()

_PING: Final = b": waiting\n\n"
_LONGEST_WAIT_S: Final = 60
_UNAVAILABLE: Final = 503
_MOST_LISTED: Final = 200
_CURSOR: Final = re.compile(rf"([0-9]{{1,15}})\.({names.JOB_ID_PATTERN})", re.ASCII)


@routes.post("/v1/jobs")
async def submit(request: web.Request) -> web.Response:
    """Submit a job. With ``Idempotency-Key`` the same request submits once."""
    gateway, caller = request.app[GATEWAY], need(request, "submit")
    job = await json_object(request)
    given = job.get("tenant")
    if given is not None and given != caller.tenant:
        raise Problem(
            400, ErrorCode.INVALID_JOB, "tenant: it comes from the API key", param="tenant"
        )
    job, job_id = job_of_caller(request, caller, job)
    own = job.get("job_id")
    if isinstance(own, str) and names.is_job_id(own):
        await _refuse_taken(gateway, caller, own)
    job_id = await gateway.client.submit(job, job_id=job_id)
    body = {
        "job_id": job_id,
        "events": f"/v1/jobs/{job_id}/events",
        "ticket": tickets.issue(gateway.ticket_secret, job_id, time.time()),
    }
    return web.json_response(body, status=202, headers={"Location": f"/v1/jobs/{job_id}"})


async def _refuse_taken(gateway: Gateway, caller: Caller, job_id: str) -> None:
    """Raise ``JobIdReused`` for the ID of a job that the caller may not see.

    The fingerprints, which hold the tenant, refuse it too, but a record of an older version has
    none. For it the caller would get a ticket, and the job another payload.
    """
    known = await gateway.client.status(job_id)
    if known.status != "unknown" and not caller.owns(job_id, known.tenant):
        raise JobIdReused(job_id)


@routes.get("/v1/jobs")
async def list_jobs(request: web.Request) -> web.Response:
    """List the newest jobs of the caller's tenant, newest first."""
    gateway, caller = request.app[GATEWAY], need(request, "read")
    tenant = request.query.get("tenant") or None
    if caller.tenant is not None:
        if tenant not in {None, caller.tenant}:
            raise Problem(
                403, "forbidden", "tenant: the API key belongs to another tenant", param="tenant"
            )
        tenant = caller.tenant
    limit = whole_number(request, "limit", 50, most=_MOST_LISTED)
    status = request.query.get("status") or None
    if status not in {None, *get_args(Status)}:
        raise Problem(400, "invalid_request", "status: no such status", param="status")
    jobs = await gateway.client.list(
        tenant=tenant, status=status, limit=limit, before=_place(request.query.get("before"))
    )
    more = _cursor(jobs[-1]) if len(jobs) == limit else None
    return web.json_response({"jobs": [_shown(job) for job in jobs], "next": more})


def _cursor(job: JobStatus) -> str:
    return f"{round((job.created_ts or 0) * 1000)}.{job.job_id}"


def _place(cursor: str | None) -> JobStatus | None:
    if not cursor:
        return None
    found = _CURSOR.fullmatch(cursor)
    if found is None:
        raise Problem(400, "invalid_request", "before: pass the `next` of a page", param="before")
    return JobStatus(job_id=found[2], status="unknown", created_ts=int(found[1]) / 1000)


@routes.get("/v1/jobs/{job_id}")
async def look_up(request: web.Request) -> web.Response:
    """Return the record of a job, its usage if it has ended, and its result if it has completed."""
    gateway = request.app[GATEWAY]
    job = await owned_job(request, "read", request.match_info["job_id"])
    shown = _shown(job)
    if job.status == "queued":
        waiting = await gateway.fleet.waiting()
        later = await gateway.client.submitted_later(job.job_id)
        shown["queued_jobs"] = waiting
        shown["queue_position"] = queue_position(waiting, later)
    if job.status in TERMINAL_TYPES:
        try:
            result = await gateway.client.result(job.job_id, timeout_s=gateway.lookup_s)
        except CursorExpired:  # the record outlives the log
            shown["result"] = None
        except JobFailed as error:
            shown["usage"] = error.event.usage
        except TimeoutError:
            raise Unavailable("the log of an ended job was not read in time") from None
        else:
            shown["result"] = _result(result)
            shown["usage"] = result.usage
    return web.json_response(shown)


def queue_position(waiting: int | None, later: int | None) -> int | None:
    """Return the greatest place that a queued job can have; 1 is the next (pure).

    Of the ``waiting`` jobs, the ``later`` ones stand behind it. Jobs of other priorities, and
    those of bare producers, count as older. Returns ``None`` if either number is unknown.
    """
    return None if waiting is None or later is None else max(1, waiting - later)


@routes.post("/v1/jobs/{job_id}/cancel")
async def cancel(request: web.Request) -> web.Response:
    """Request the cancellation of a job; one that has ended stays as it is."""
    job = await owned_job(request, "cancel", request.match_info["job_id"])
    await request.app[GATEWAY].client.cancel(job.job_id)
    return web.json_response({"job_id": job.job_id, "cancel_requested": True}, status=202)


@routes.post("/v1/jobs/{job_id}/tickets")
async def issue_ticket(request: web.Request) -> web.Response:
    """Return a ticket, by which a browser may read this job alone."""
    job = await owned_job(request, "read", request.match_info["job_id"])
    if caller_of(request).job_id is not None:
        raise Problem(403, "forbidden", "a ticket gives no further ticket: use the API key")
    ticket = tickets.issue(request.app[GATEWAY].ticket_secret, job.job_id, time.time())
    return web.json_response({"ticket": ticket, "expires_in_s": tickets.LIFETIME_S}, status=201)


@routes.get("/v1/jobs/{job_id}/events")
async def follow(request: web.Request) -> web.StreamResponse:
    """Stream the events of a job; with ``?wait_s=`` return the present ones as JSON."""
    try:
        return await _follow(request)
    except (Problem, ClientError, SettingsError) as error:
        problem = error if isinstance(error, Problem) else of_client(error)
        eventsource = "text/event-stream" in request.headers.get("Accept", "")
        if problem.status != _UNAVAILABLE or not eventsource or "wait_s" in request.query:
            raise
        logger.warning("an event stream ends at once: %s", error)
        return _come_back(problem)


def _come_back(problem: Problem) -> web.Response:
    """Return a stream that ends at once: EventSource comes back to it, but never after a 503.

    It comes over a new connection, and so to another gateway if this one stops.
    """
    response = web.Response(headers=HEADERS, body=b": %b\n\n" % problem.message.encode())
    response.force_close()
    return response


async def _follow(request: web.Request) -> web.StreamResponse:
    gateway = request.app[GATEWAY]
    job = await owned_job(request, "read", request.match_info["job_id"])
    after = sse.cursor(request.query.get("after"))
    if "Last-Event-ID" in request.headers:
        after = sse.cursor(request.headers["Last-Event-ID"])
    polled = "wait_s" in request.query
    if request.method == "HEAD":
        return (
            web.Response(content_type="application/json")
            if polled
            else web.Response(headers=HEADERS)
        )
    if polled:
        return await _poll(request, job.job_id, after)
    out = EventResponse(request, {}, _PING)
    async with gateway.client.stream(job.job_id, after) as stream:
        try:
            async with contextlib.aclosing(gateway.followers.batches(stream)) as batches:
                async for batch in batches:
                    frames = [_PING] if batch is None else map(sse.frame, batch)
                    await out.write(frames)
        except ClientError as error:
            if not out.begun:
                raise
            await out.write([_failure(of_client(error))])
    if not out.begun:
        if gateway.followers.stopped:
            raise Problem(503, "stopping", "the gateway is shutting down: ask again")
        return web.Response(status=204)  # EventSource stops at this status
    await out.finish()
    return out.response


def _failure(problem: Problem) -> bytes:
    return b"event: stream_error\ndata: %b\n" % problem.as_json() + b"\n"


async def _poll(request: web.Request, job_id: str, after: int) -> web.Response:
    gateway = request.app[GATEWAY]
    wait_s = whole_number(request, "wait_s", 0, least=0, most=_LONGEST_WAIT_S)
    events, ended = await gateway.poll(job_id, after, wait_s)
    seq = events[-1].seq if events else after
    body = b'{"events": [%b], "after": %d, "ended": %b}\n' % (
        b", ".join(event.data for event in events),
        seq,
        b"true" if ended else b"false",
    )
    return web.Response(body=body, content_type="application/json")


def _result(result: Result) -> dict[str, Any]:
    made: dict[str, Any] = {"text": result.text, "finish_reason": result.finish_reason}
    if result.reasoning:
        made["reasoning"] = result.reasoning
    if result.tool_calls:
        made["tool_calls"] = [dataclasses.asdict(call) for call in result.tool_calls]
    return made


def _shown(job: JobStatus) -> dict[str, Any]:
    return {
        "job_id": job.job_id,
        "status": job.status,
        "attempt": job.attempt,
        "seq": job.seq,
        "cancel_requested": job.cancel_requested,
        "created_ts": job.created_ts,
        "started_ts": job.started_ts,
        "tenant": job.tenant,
        "metadata": job.metadata,
        "error": None if job.error is None else job.error.model_dump(mode="json"),
        "reason": job.reason,
    }
