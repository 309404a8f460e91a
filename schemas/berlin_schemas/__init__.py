"""The wire contract of Berlin Worker as code: names, jobs, events, errors.

Needs pydantic alone, does no I/O, and is safe to import from any service.
"""

from berlin_schemas.errors import ErrorCode, ErrorInfo
from berlin_schemas.events import (
    Cancelled,
    Chunk,
    Completed,
    Event,
    Failed,
    Reasoning,
    Reset,
    Started,
    Terminal,
    Timings,
    ToolCall,
    decode,
    encode,
)
from berlin_schemas.jobs import Fallback, InvalidJob, Message, PromptJob

__all__ = [
    "Cancelled",
    "Chunk",
    "Completed",
    "ErrorCode",
    "ErrorInfo",
    "Event",
    "Failed",
    "Fallback",
    "InvalidJob",
    "Message",
    "PromptJob",
    "Reasoning",
    "Reset",
    "Started",
    "Terminal",
    "Timings",
    "ToolCall",
    "decode",
    "encode",
]
