"""The application: routes, authentication, errors, CORS and metrics around them."""

import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Middleware
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from berlin_schemas import InvalidJob
from berlin_worker.errors import ClientError, SettingsError
from berlin_worker.gateway import chat, fleet_routes, jobs, openapi, page_routes, responses, tickets
from berlin_worker.gateway.gateway import CALLER, GATEWAY, JOB_ID, Gateway
from berlin_worker.gateway.keys import Caller
from berlin_worker.gateway.origins import refuse_foreign
from berlin_worker.gateway.problems import Problem, of_client

logger = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_ENVELOPE_BYTES: Final = 64 * 1024
"""Room for what surrounds a job in a request of the OpenAI dialect."""
_OPEN: Final = page_routes.PATHS | {"/livez", "/readyz", "/metrics", "/openapi.json"}
_EXPOSED_HEADERS: Final = "Location, Retry-After, x-job-id, x-should-retry"
_PREFLIGHT_S: Final = "600"
_RETRY_AFTER_S: Final = "1"
_UNAVAILABLE: Final = 503


def make_app(gateway: Gateway) -> web.Application:
    """Return the application of ``gateway``."""
    metrics = _Metrics(gateway)
    app = web.Application(
        middlewares=[metrics.count(), _answer_problems, _authenticate],
        client_max_size=gateway.client.max_job_bytes + _ENVELOPE_BYTES,
    )
    app[GATEWAY] = gateway
    app.router.add_get("/livez", _live)
    app.router.add_get("/readyz", _ready)
    app.router.add_get("/metrics", metrics.show)
    app.router.add_get("/openapi.json", openapi.show)
    app.router.add_routes(jobs.routes)
    app.router.add_routes(chat.routes)
    app.router.add_routes(responses.routes)
    app.router.add_routes(fleet_routes.routes)
    page_routes.add_routes(app)
    app.on_response_prepare.append(_add_headers)
    return app


async def _live(_: web.Request) -> web.Response:
    return web.json_response({"status": "alive"})


async def _ready(request: web.Request) -> web.Response:
    gateway = request.app[GATEWAY]
    if gateway.followers.stopped:
        return web.json_response({"status": "stopping"}, status=_UNAVAILABLE)
    try:
        await gateway.client.status("readyz")
    except (ClientError, SettingsError):
        return web.json_response({"status": "Redis does not answer"}, status=_UNAVAILABLE)
    return web.json_response({"status": "ready"})


@web.middleware
async def _authenticate(request: web.Request, handler: Handler) -> web.StreamResponse:
    gateway, headers = request.app[GATEWAY], request.headers
    if not gateway.keys:
        refuse_foreign(headers.get("Host"), headers.get("Origin"), gateway.origins)
    if request.method == "OPTIONS" or request.path in _OPEN:
        return await handler(request)
    request[CALLER] = _caller(request)
    return await handler(request)


def _caller(request: web.Request) -> Caller:
    gateway = request.app[GATEWAY]
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    credential = given.strip() if scheme.lower() == "bearer" else ""
    for ticket in (request.query.get("ticket"), credential):
        if ticket and (job_id := tickets.redeem(gateway.ticket_secret, ticket, time.time())):
            return Caller(scopes=frozenset({"read"}), models=(), job_id=job_id)
    if "ticket" in request.query:
        raise Problem(401, "invalid_ticket", "the ticket is invalid or too old: ask for a new one")
    if not gateway.keys:
        return Caller()
    if caller := gateway.keys.caller(credential):
        return caller
    raise Problem(
        401, "invalid_api_key", "send an API key of this gateway: Authorization: Bearer <key>"
    )


@web.middleware
async def _answer_problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    allowed = None
    try:
        if _is_preflight(request):
            return web.Response(status=204)  # _add_headers adds the rights of its origin
        return await handler(request)
    except Problem as error:
        problem = error
    except (ClientError, InvalidJob, SettingsError) as error:
        problem = of_client(error)
        if problem.status >= 500:  # noqa: PLR2004  # from here on the fault is the server's
            logger.warning("%s %s: %s", request.method, _path(request), error)
    except web.HTTPException as error:
        problem = _of_http(error, request.app[GATEWAY].client.max_job_bytes)
        allowed = error.headers.get("Allow")
    except ConnectionResetError:
        raise
    except Exception as error:
        logger.exception("%s %s failed: %s", request.method, _path(request), type(error).__name__)
        problem = Problem(500, "internal", "an error of the gateway: see its log")
    response = _as_response(problem)
    if allowed is not None:
        response.headers["Allow"] = allowed
    if JOB_ID in request:
        response.headers["x-job-id"] = request[JOB_ID]
    return response


def _is_preflight(request: web.Request) -> bool:
    return request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers


def _of_http(error: web.HTTPException, max_job_bytes: int) -> Problem:
    if error.status == web.HTTPRequestEntityTooLarge.status_code:
        return Problem(413, "invalid_job", f"a job has at most {max_job_bytes} bytes")
    code = error.reason.lower().replace(" ", "_")
    return Problem(error.status, code, error.reason)


def _as_response(problem: Problem) -> web.Response:
    headers = {}
    if problem.status == 401:  # noqa: PLR2004  # RFC 9110: a 401 names the way to log in
        headers["WWW-Authenticate"] = "Bearer"
    if problem.code in {"unavailable", "stopping"}:
        headers["Retry-After"] = _RETRY_AFTER_S
    else:
        # The worker has retried already: a retry by OpenAI's client would pay for the prompt again.
        headers["x-should-retry"] = "false"
    return web.Response(
        status=problem.status,
        body=problem.as_json(),
        content_type="application/json",
        headers=headers,
    )


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    response.headers.pop("Server", None)
    origins = request.app[GATEWAY].origins
    origin = request.headers.get("Origin")
    if not origins:
        return
    response.headers["Vary"] = "Origin"
    if origin in origins:
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Expose-Headers"] = _EXPOSED_HEADERS
        if _is_preflight(request):
            # OpenAI's client for browsers sends headers of its own, which change by release. No
            # header gives a page more rights than its API key does, so all of them are allowed.
            asked = request.headers.get("Access-Control-Request-Headers", "")
            response.headers["Access-Control-Allow-Methods"] = "GET, POST"
            response.headers["Access-Control-Allow-Headers"] = asked
            response.headers["Access-Control-Max-Age"] = _PREFLIGHT_S


def _path(request: web.Request) -> str:
    """Return the route, without what a caller has put into the path or the query."""
    resource = request.match_info.route.resource
    return "(no route)" if resource is None else resource.canonical


async def _traced(request: web.Request, handler: Handler) -> web.StreamResponse:
    tracer = request.app[GATEWAY].tracer
    with tracer.request(request.method, _path(request), request.headers) as trace:
        response = await handler(request)
        trace.answered(response.status)
        return response


class _Metrics:
    """Counts requests by route and status, and shows the streams that are open."""

    def __init__(self, gateway: Gateway) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "berlin_gateway_requests",
            "Requests by route and HTTP status",
            ["method", "route", "status"],
            registry=self._registry,
        )
        streams = Gauge(
            "berlin_gateway_open_streams",
            "Responses that wait for events",
            ["kind"],
            registry=self._registry,
        )
        kinds: Iterable[tuple[str, Callable[[], int]]] = (
            ("events", lambda: gateway.followers.count),
            ("chat", lambda: gateway.chats.count),
        )
        for kind, count in kinds:
            streams.labels(kind).set_function(count)

    async def show(self, _: web.Request) -> web.Response:
        """Return the metrics in the text format of Prometheus."""
        text = generate_latest(self._registry)
        return web.Response(body=text, content_type="text/plain", charset="utf-8")

    def count(self) -> Middleware:
        """Return the middleware that counts and logs requests."""

        @web.middleware
        async def counted(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await self._count(request, handler)

        return counted

    async def _count(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        begun, status = time.monotonic(), 499  # nginx's status for a client that went away
        try:
            if request.path in _OPEN:
                response = await handler(request)
            else:
                response = await _traced(request, handler)
            status = response.status
            return response
        finally:
            self._requests.labels(request.method, _path(request), str(status)).inc()
            logger.info(
                "%s %s %d %.0f ms",
                request.method,
                _path(request),
                status,
                (time.monotonic() - begun) * 1000,
            )
