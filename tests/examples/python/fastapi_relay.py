"""Relay jobs to browsers with FastAPI: ``uvicorn fastapi_relay:app``.

An EventSource that reconnects sends the header Last-Event-ID and gets the rest of the events.
Close it at completed, failed or cancelled.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Body, FastAPI, Header, Path
from fastapi.responses import StreamingResponse

from berlin_worker.client import AsyncClient

client = AsyncClient()  # by REDIS_URL and CELERY_BROKER_URL


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    async with client:
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/jobs")
async def submit(prompt: Annotated[str, Body(embed=True)]) -> dict[str, str]:
    return {"job_id": await client.submit(prompt)}


@app.get("/jobs/{job_id}/events")
async def events(
    job_id: Annotated[str, Path(pattern="^[A-Za-z0-9_-]{1,128}$")],
    last_event_id: Annotated[str | None, Header()] = None,
) -> StreamingResponse:
    return StreamingResponse(
        client.sse(job_id, last_event_id),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )
