"""Relay jobs to browsers with async views of Django: ``uvicorn django_relay:app``.

One file in place of a project. An EventSource that reconnects sends the header Last-Event-ID and
gets the rest of the events. Close it at completed, failed or cancelled.
"""

import json
import os

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, JsonResponse, StreamingHttpResponse
from django.urls import path
from django.views.decorators.http import require_GET, require_POST

from berlin_worker.client import AsyncClient

settings.configure(
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["127.0.0.1", "localhost"],
    SECRET_KEY=os.environ.get("DJANGO_SECRET_KEY", "of the example alone"),
)
client = AsyncClient()  # by REDIS_URL and CELERY_BROKER_URL


@require_POST
async def submit(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"job_id": await client.submit(json.loads(request.body)["prompt"])})


@require_GET
async def events(request: HttpRequest, job_id: str) -> StreamingHttpResponse:
    return StreamingHttpResponse(
        client.sse(job_id, request.headers.get("Last-Event-ID")),
        content_type="text/event-stream",
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )


urlpatterns = [path("jobs", submit), path("jobs/<slug:job_id>/events", events)]
app = get_asgi_application()
