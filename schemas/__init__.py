"""The wire contract of Berlin Worker as code: names, jobs, events, errors.

Needs pydantic alone, does no I/O, and is safe to import from any service.
"""

from schemas.errors import ErrorCode, ErrorInfo
from schemas.events import (
    Cancelled,
    Chunk,
    Completed,
    Event,
    Failed,
    Reset,
    Started,
    Terminal,
    Timings,
    decode,
    encode,
)
from schemas.jobs import InvalidJob, Message, PromptJob

__all__ = [
    "Cancelled",
    "Chunk",
    "Completed",
    "ErrorCode",
    "ErrorInfo",
    "Event",
    "Failed",
    "InvalidJob",
    "Message",
    "PromptJob",
    "Reset",
    "Started",
    "Terminal",
    "Timings",
    "decode",
    "encode",
]
