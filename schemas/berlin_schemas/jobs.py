"""The job object: what a producer puts on the queue (schemas/README.md, "Job object").

Only ``messages`` is required. Types are not coerced and unknown top-level
fields are refused, so that a misspelt option is an error.
"""

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    StringConstraints,
    Tag,
    ValidationError,
    model_validator,
)
from pydantic.config import JsonDict
from pydantic_core import ErrorDetails, PydanticCustomError
from typing_extensions import TypedDict  # pydantic requires this one before Python 3.12

from berlin_schemas.names import JOB_ID_PATTERN

MAX_JOB_BYTES: Final = 1024 * 1024
"""A job object larger than this, as compact UTF-8 JSON, is refused (schemas/README.md)."""
LARGEST_JOB_BYTES: Final = 16 * 1024 * 1024
"""The largest limit that an operator may set by WORKER_MAX_JOB_BYTES."""

MAX_JOB_DEPTH: Final = 100
"""A job object with more arrays and objects inside one another, itself included, is refused. So
each job that is accepted has a fingerprint."""
_NESTED: Final = (dict, list, tuple)

# json.dumps with options would make a new encoder in each call.
_compact: Final = json.JSONEncoder(
    ensure_ascii=False, separators=(",", ":"), allow_nan=False
).encode
_field_name: Final = re.compile(r"[A-Za-z0-9_]{1,40}", re.ASCII)

Seconds = Annotated[float, Field(gt=0, le=7 * 86400, allow_inf_nan=False)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=128)]

MAX_FALLBACKS: Final = 16
MAX_METADATA_KEYS: Final = 16
MAX_METADATA_BYTES: Final = 4096
"""Limit of ``metadata`` as compact UTF-8 JSON."""


def _small(metadata: dict[str, JsonValue]) -> dict[str, JsonValue]:
    try:
        size = len(_compact(metadata).encode())
    except (ValueError, RecursionError):
        return metadata  # dump_job raises the error
    if size > MAX_METADATA_BYTES:
        text = "must have at most {limit} bytes as JSON"
        raise PydanticCustomError("too_many_bytes", text, {"limit": MAX_METADATA_BYTES})
    return metadata


Metadata = Annotated[
    dict[str, JsonValue], Field(max_length=MAX_METADATA_KEYS), AfterValidator(_small)
]


_TOO_DEEP: Final = "the job object is nested too deeply"


class InvalidJob(ValueError):
    """The job object breaks the contract; the message names the fields, without their values."""


class Part(TypedDict):
    """A part of a message: an object with a ``type`` (``text``, ``image_url``, ...)."""

    __pydantic_config__ = ConfigDict(extra="allow", strict=True)  # type: ignore[misc]  # pydantic reads it; a TypedDict has no field without an annotation

    type: Annotated[str, StringConstraints(min_length=1)]


_NO_CONTENT: Final = "no_content"
_CONTENT_TAGS: Final[Mapping[type, str]] = {str: "text", list: "parts", type(None): "null"}


def _content_tag(content: object) -> str | None:
    tag = _CONTENT_TAGS.get(type(content))  # enough for JSON; a caller may pass a subclass
    return tag or next(
        (tag for kind, tag in _CONTENT_TAGS.items() if isinstance(content, kind)), None
    )


Content = Annotated[
    Annotated[str, Tag("text")]
    | Annotated[list[Part], Field(min_length=1), Tag("parts")]
    | Annotated[None, Tag("null")],
    Discriminator(
        _content_tag,
        custom_error_type="content_type",
        custom_error_message="must be a string, an array of parts, or null beside tool_calls",
    ),
]


_CONTENT_OR_CALLS: Final[JsonDict] = {
    "anyOf": [
        {"required": ["content"], "properties": {"content": {"not": {"type": "null"}}}},
        {
            "required": ["tool_calls"],
            "properties": {"tool_calls": {"type": "array", "minItems": 1}},
        },
    ]
}


class Message(BaseModel):
    """One turn of the conversation. Providers may use further fields.

    ``content`` is a text, a list of parts, or ``None`` beside ``tool_calls``.
    ``model_dump(exclude_unset=True)`` returns the message as the producer has sent it.
    """

    model_config = ConfigDict(
        frozen=True, extra="allow", strict=True, json_schema_extra=_CONTENT_OR_CALLS
    )

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content = None

    @model_validator(mode="after")
    def _has_content(self) -> Self:
        if self.content is None:
            calls = (self.model_extra or {}).get("tool_calls")
            if not (isinstance(calls, list) and calls):
                raise PydanticCustomError(_NO_CONTENT, "is missing")
        return self


class Fallback(BaseModel):
    """Who is tried if the one before fails ahead of its first chunk.

    Without ``options`` those of the job apply.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    provider: Name
    model: Name
    options: dict[str, JsonValue] | None = None


class PromptJob(BaseModel):
    """One prompt for one provider; every duration in seconds.

    - ``deadline_s`` covers all attempts, from the start of the first.
    - ``on_interrupt`` applies to an attempt that fails after its first chunk: ``restart`` (a
      ``reset`` event, then a new stream), ``fail``, or ``keep`` (end with the text so far).
    - ``tenant`` and ``metadata`` (16 keys, 4 KiB) belong to the producer: records keep them, and
      no upstream receives them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    job_id: Annotated[str, Field(pattern=f"^{JOB_ID_PATTERN}$")] | None = None
    provider: Name = "berlin"
    model: Name = "gpt-3.5-turbo"
    messages: list[Message] = Field(min_length=1)
    options: dict[str, JsonValue] = Field(default_factory=dict)
    fallbacks: list[Fallback] = Field(default_factory=list, max_length=MAX_FALLBACKS)
    proxy: str | None = Field(default=None, max_length=2048)
    deadline_s: Seconds = 600.0
    first_chunk_timeout_s: Seconds = 60.0
    idle_timeout_s: Seconds = 30.0
    on_interrupt: Literal["restart", "fail", "keep"] = "restart"
    tenant: Name | None = None
    metadata: Metadata = Field(default_factory=dict)


def parse_job(
    obj: object, job_id: str, *, max_bytes: int = MAX_JOB_BYTES
) -> tuple[PromptJob, bytes]:
    """Return the job in a decoded job object, and that object as compact UTF-8 JSON.

    ``job_id`` is the Celery task ID; a ``job_id`` in the object must equal it. ``max_bytes`` is the
    limit of WORKER_MAX_JOB_BYTES. Raises :class:`InvalidJob`. Its message names the invalid fields
    and never repeats their values: a prompt must not reach a log through an error.
    """
    if not isinstance(obj, dict):
        raise InvalidJob(f"a job is a JSON object, not {_json_type(obj)}")
    data = dump_job(obj, max_bytes=max_bytes)
    # Few jobs have so many brackets that they need a closer look.
    if data.count(b"[") + data.count(b"{") > MAX_JOB_DEPTH and _is_too_deep(obj):
        raise InvalidJob(_TOO_DEEP)
    try:
        job = PromptJob.model_validate(obj)
    except ValidationError as error:
        raise InvalidJob(_explain(error)) from None
    if job.job_id is not None and job.job_id != job_id:
        raise InvalidJob("job_id is not the task ID of the message that carries the job")
    return job, data


def dump_job(obj: dict[str, Any], *, max_bytes: int = MAX_JOB_BYTES) -> bytes:
    """Return a job object as compact UTF-8 JSON; raises :class:`InvalidJob`, also if too long."""
    try:
        data = _compact(obj).encode()
    except RecursionError:
        raise InvalidJob(_TOO_DEEP) from None
    except UnicodeEncodeError:
        raise InvalidJob("the job object holds half a surrogate pair: no UTF-8") from None
    except (TypeError, ValueError):
        raise InvalidJob("the job object holds what JSON cannot, such as NaN") from None
    if len(data) > max_bytes:
        raise InvalidJob(f"the job object has {len(data)} bytes; at most {max_bytes} are taken")
    return data


def values_below(value: Any, levels: int) -> list[Any]:
    """Return the values that are nested so many levels of arrays and objects below ``value``."""
    level = [value]
    for _ in range(levels):
        level = [
            inner
            for outer in level
            if isinstance(outer, _NESTED)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            break
    return level


def _is_too_deep(obj: Any) -> bool:
    return any(isinstance(value, _NESTED) for value in values_below(obj, MAX_JOB_DEPTH))


_WORDING: Final = {
    "dict_type": "must be an object",
    "extra_forbidden": "no such field",
    "list_type": "must be an array",
    "missing": "is missing",
    "model_type": "must be an object",
    "recursion_depth_exceeded": "is nested too deeply",
    "string_pattern_mismatch": "must be 1 to 128 characters of A-Z a-z 0-9 _ -",
    "string_too_short": "must not be empty",
    "too_short": "must not be empty",
}
"""Messages in terms of JSON, by the type of pydantic's error: its own ones are about Python."""


def _explain(error: ValidationError) -> str:
    shown = 3
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    texts = [f"{_place(p)}: {_wording(p['type'], p['msg'])}" for p in problems[:shown]]
    if len(problems) > shown:
        texts.append(f"and {len(problems) - shown} more")
    return "; ".join(texts)


def _wording(kind: str, message: str) -> str:
    return _WORDING.get(kind) or message.replace("Input should be", "must be", 1)


def _place(problem: ErrorDetails) -> str:
    loc = problem["loc"]
    if problem["type"] == _NO_CONTENT:
        loc = (*loc, "content")
    # Keys chosen by the producer may hold any text of any length.
    if loc[:1] in {("options",), ("metadata",)}:
        loc = loc[:1]
    if loc[2:3] == ("content",):
        loc = (*loc[:3], *(part for part in loc[3:] if part not in _CONTENT_TAGS.values()))
    return ".".join(map(_safe, loc)) or "job"


def _safe(part: int | str) -> str:
    name = str(part)
    return name if _field_name.fullmatch(name) else "(name not shown)"


def _json_type(obj: object) -> str:
    names = {str: "a string", list: "an array", bool: "a boolean", type(None): "null"}
    return names.get(type(obj), "a number")
