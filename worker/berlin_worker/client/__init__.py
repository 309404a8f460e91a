"""Submit jobs and read their events, from asyncio or from threads.

    async with AsyncClient() as client:
        async for event in client.submit_and_stream("Hello"):
            ...

    with Client() as client:
        print(client.result(client.submit("Hello")).text)

Needs Redis and the broker alone: neither the worker nor its HTTP client is imported.
"""

from berlin_schemas import (
    Cancelled,
    Chunk,
    Completed,
    ErrorCode,
    ErrorInfo,
    Event,
    Failed,
    Fallback,
    InvalidJob,
    Message,
    PromptJob,
    Reasoning,
    Reset,
    Started,
    Timings,
    ToolCall,
)
from berlin_worker.client.aio import AsyncClient
from berlin_worker.client.answer import Answer, AssembledToolCall
from berlin_worker.client.stream import Stream
from berlin_worker.client.sync import Client, SyncStream
from berlin_worker.client.values import JobStatus, Options, Result
from berlin_worker.errors import (
    ClientError,
    CursorExpired,
    JobFailed,
    JobIdReused,
    SettingsError,
    Unavailable,
    UnsupportedVersion,
)

__all__ = [
    "Answer",
    "AssembledToolCall",
    "AsyncClient",
    "Cancelled",
    "Chunk",
    "Client",
    "ClientError",
    "Completed",
    "CursorExpired",
    "ErrorCode",
    "ErrorInfo",
    "Event",
    "Failed",
    "Fallback",
    "InvalidJob",
    "JobFailed",
    "JobIdReused",
    "JobStatus",
    "Message",
    "Options",
    "PromptJob",
    "Reasoning",
    "Reset",
    "Result",
    "SettingsError",
    "Started",
    "Stream",
    "SyncStream",
    "Timings",
    "ToolCall",
    "Unavailable",
    "UnsupportedVersion",
]
