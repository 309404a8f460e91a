"""The gateway's OpenAPI 3.1 document, with the schemas of the pydantic models."""

from importlib.metadata import version
from typing import Any, Final, get_args

from aiohttp import web
from pydantic.json_schema import models_json_schema

from berlin_schemas import PromptJob
from berlin_worker.client.values import Status
from berlin_worker.gateway import bodies
from berlin_worker.gateway.idempotency import KEY_PATTERN

Object = dict[str, Any]

_REF: Final = "#/components/schemas/{model}"
_MODELS: Final = (
    PromptJob,
    bodies.Accepted,
    bodies.CancelRequested,
    bodies.ErrorBody,
    bodies.Fleet,
    bodies.Job,
    bodies.JobPage,
    bodies.Models,
    bodies.PolledEvents,
    bodies.Ticket,
)
_PROBLEMS: Final = {
    400: "The request is invalid; `param` names the field.",
    401: "No valid API key or ticket.",
    403: "The API key does not allow it. Without keys: a page of another origin or host sent it.",
    404: "No such job for this caller.",
    408: "The body took too long.",
    410: "The events of the job have expired.",
    413: "The job is too large.",
    415: "The body is not JSON.",
    422: "The Idempotency-Key or job ID belongs to another request.",
    503: "Redis or the broker does not answer.",
}
_JOB_ID: Final = {
    "name": "job_id",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,128}$"},
}
_CURSOR: Final = {
    "type": "string",
    "pattern": "^([0-9]{1,15}[.][A-Za-z0-9_-]{1,128})?$",
    "description": "`next` of the page before",
}
_KEY: Final = {
    "name": "Idempotency-Key",
    "in": "header",
    "schema": {"type": "string", "pattern": f"^{KEY_PATTERN}$"},
}


def _ref(model: str) -> Object:
    return {"$ref": _REF.format(model=model)}


def _answer(text: str, model: str | None = None, kind: str = "application/json") -> Object:
    made: Object = {"description": text}
    if model is not None:
        made["content"] = {kind: {"schema": _ref(model)}}
    return made


def _operation(
    summary: str, answers: dict[int, Object], problems: tuple[int, ...], **more: Any
) -> Object:
    responses = {str(status): answer for status, answer in answers.items()}
    responses |= {str(status): _answer(_PROBLEMS[status], "ErrorBody") for status in problems}
    return {"summary": summary, "responses": responses, **more}


def _query(name: str, schema: Object) -> Object:
    return {"name": name, "in": "query", "schema": schema}


def _body(schema: Object) -> Object:
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _paths_of_all() -> Object:
    return {
        "/v1/jobs": {
            "post": _operation(
                "Submit a job",
                {202: _answer("The job is on the queue.", "Accepted")},
                (400, 401, 403, 408, 413, 415, 422, 503),
                operationId="submit",
                parameters=[_KEY],
                requestBody=_body(_ref("PromptJob")),
            ),
            "get": _operation(
                "List the newest jobs",
                {200: _answer("Newest first.", "JobPage")},
                (400, 401, 403, 503),
                operationId="list",
                parameters=[
                    _query("tenant", {"type": "string"}),
                    _query("status", {"enum": ["", *get_args(Status)]}),
                    _query("limit", {"type": "integer", "minimum": 1, "maximum": 200}),
                    _query("before", _CURSOR),
                ],
            ),
        },
    }


def _paths_of_fleet() -> Object:
    return {
        "/v1/fleet": {
            "get": _operation(
                "Watch the workers",
                {200: _answer("The fleet; later releases only add fields.", "Fleet")},
                (401, 403, 503),
                operationId="fleet",
            ),
        },
        "/v1/models": {
            "get": _operation(
                "List the models",
                {200: _answer("Those that the key allows.", "Models")},
                (401, 403),
                operationId="models",
            ),
        },
    }


def _paths_of_one() -> Object:
    events = {"description": "Server-sent events, or JSON with `wait_s`.", "content": {
        "text/event-stream": {},
        "application/json": {"schema": _ref("PolledEvents")},
    }}  # fmt: skip
    wait = {"type": "integer", "minimum": 0, "maximum": 60}
    return {
        "/v1/jobs/{job_id}": {
            "parameters": [_JOB_ID],
            "get": _operation(
                "Look up a job",
                {200: _answer("Its record, and its text once it has completed.", "Job")},
                (401, 403, 404, 503),
                operationId="look_up",
            ),
        },
        "/v1/jobs/{job_id}/cancel": {
            "parameters": [_JOB_ID],
            "post": _operation(
                "Cancel a job",
                {202: _answer("The job ends soon, if it has not ended.", "CancelRequested")},
                (401, 403, 404, 503),
                operationId="cancel",
            ),
        },
        "/v1/jobs/{job_id}/tickets": {
            "parameters": [_JOB_ID],
            "post": _operation(
                "Make a ticket by which a browser reads this job",
                {201: _answer("The ticket.", "Ticket")},
                (401, 403, 404, 503),
                operationId="issue_ticket",
            ),
        },
        "/v1/jobs/{job_id}/events": {
            "parameters": [_JOB_ID],
            "get": _operation(
                "Follow a job",
                {200: events, 204: _answer("The cursor is at the end of the job.")},
                (400, 401, 403, 404, 410, 503),
                operationId="follow",
                parameters=[
                    _query("after", {"type": "string", "description": "the last `seq` seen"}),
                    _query("wait_s", wait),
                    _query("ticket", {"type": "string"}),
                    {"name": "Last-Event-ID", "in": "header", "schema": {"type": "string"}},
                ],
            ),
        },
    }


def document() -> Object:
    """Return the document: the gateway's own paths; OpenAI's API reference describes the others."""
    _, schemas = models_json_schema([(model, "validation") for model in _MODELS], ref_template=_REF)
    schemas["$defs"]["PromptJob"]["properties"]["tenant"] = {
        "type": "null",
        "description": "It comes from the API key.",
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "Berlin Worker gateway", "version": version("berlin-worker")},
        "security": [{"key": []}, {"ticket": []}],
        "paths": _paths_of_all() | _paths_of_one() | _paths_of_fleet(),
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer"},
                "ticket": {"type": "apiKey", "in": "query", "name": "ticket"},
            },
        },
    }


async def show(_: web.Request) -> web.Response:
    """Return the document."""
    return web.json_response(document())
