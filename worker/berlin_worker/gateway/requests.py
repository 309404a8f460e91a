"""Reads JSON bodies and numbers of the query; an invalid one raises one clear error."""

import asyncio
import json
import re
from typing import Any, Final

from aiohttp import web

from berlin_schemas import names
from berlin_worker.client.values import JobStatus
from berlin_worker.gateway.gateway import GATEWAY, need
from berlin_worker.gateway.idempotency import job_id_of
from berlin_worker.gateway.keys import Caller, Scope
from berlin_worker.gateway.problems import Problem

BODY_S: Final = 60.0
"""The longest time for a body: a slower one only holds a connection."""
_NUMBER: Final = re.compile("[0-9]{1,9}", re.ASCII)


async def json_object(request: web.Request) -> dict[str, Any]:
    """Return the JSON object in the body. Raises a 400, 408, 413 or 415."""
    # A browser asks before a page of another origin sends this type; it does not for a body
    # without a type. aiohttp's own property parses parameters too: it raises IndexError for "x*".
    kind = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        message = "send the body with the header Content-Type: application/json"
        raise Problem(415, "invalid_request", message)
    size, largest = request.content_length or 0, request.client_max_size
    if size > largest:
        raise web.HTTPRequestEntityTooLarge(max_size=largest, actual_size=size)
    try:
        async with asyncio.timeout(BODY_S):
            body = await request.read()
        found = json.loads(body, parse_constant=_refused)
    except TimeoutError:
        raise Problem(408, "request_timeout", f"the body took over {BODY_S:g} s") from None
    except web.RequestPayloadError:
        raise Problem(400, "invalid_json", "the body does not fit its Content-Encoding") from None
    except web.HTTPRequestEntityTooLarge:
        raise
    except (ValueError, RecursionError):
        raise Problem(400, "invalid_json", "the body is not valid JSON in UTF-8") from None
    if not isinstance(found, dict):
        raise Problem(400, "invalid_json", "the body is not a JSON object")
    return found


def _refused(name: str) -> None:
    raise ValueError(name)


def whole_number(
    request: web.Request, name: str, default: int, *, least: int = 1, most: int
) -> int:
    """Return a whole number of the query. Raises a 400 for other text, or out of bounds."""
    text = request.query.get(name)
    if text is None:
        return default
    if not _NUMBER.fullmatch(text) or not least <= int(text) <= most:
        raise Problem(
            400, "invalid_request", f"{name}: a whole number from {least} to {most}", param=name
        )
    return int(text)


def job_of_caller(
    request: web.Request, caller: Caller, job: dict[str, Any]
) -> tuple[dict[str, Any], str | None]:
    """Return ``job`` with the tenant of its caller, and the job ID by its ``Idempotency-Key``.

    Raises a 403 for a model that the key does not allow, and a 400 for a bad ``Idempotency-Key``
    or a reserved ID.
    """
    job = job | {"tenant": caller.tenant}
    request.app[GATEWAY].check_models(caller, job)
    return job, job_id_of(request, job, caller.tenant)


async def owned_job(request: web.Request, scope: Scope, job_id: str) -> JobStatus:
    """Return the status of a job. Raises a 404 if the caller may not see it."""
    caller = need(request, scope)
    missing = Problem(404, "job_not_found", "no such job: it was never submitted, or has expired")
    if not names.is_job_id(job_id):
        raise missing
    job = await request.app[GATEWAY].client.status(job_id)
    if job.status == "unknown" or not caller.owns(job_id, job.tenant):
        raise missing
    return job
