"""The lines of a batch: the job of each line, and the JSON object of its result (pure)."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Self

from berlin_schemas import Cancelled, Failed, InvalidJob
from berlin_schemas.fingerprint import fingerprint
from berlin_schemas.jobs import MAX_JOB_BYTES, parse_job
from berlin_schemas.names import is_job_id
from berlin_worker.cli.job_options import build_job
from berlin_worker.client import Result

_BOM: Final = b"\xef\xbb\xbf"
_LONGEST_BASE: Final = 112
"""Part of a job ID that a retry keeps; its number follows. An ID has at most 128 characters."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line that can be sent.

    ``own_id``: the line itself names its job ID. ``label``: its ``id``, which is only copied to the
    result. ``fingerprint``: equal for equal payloads. ``retry``: number of earlier runs.
    """

    number: int
    job_id: str
    job: dict[str, Any]
    label: str | int | None = None
    fingerprint: str = ""
    own_id: bool = False
    retry: int = 0

    def as_retry(self, retry: int) -> Self:
        """Return the line with the job ID of its run number ``retry``, counted from 0."""
        if retry == self.retry:
            return self
        assert self.retry == 0, "the ID of a retry derives from that of the first run"
        job_id = f"{self.job_id[:_LONGEST_BASE]}_retry{retry}"
        job = {name: value for name, value in self.job.items() if name != "job_id"}
        return replace(self, job_id=job_id, job=job, retry=retry)


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that cannot be sent, and the reason."""

    number: int
    problem: str
    job_id: None = None


@dataclass(frozen=True, slots=True)
class KeptResult:
    """A line with the ``result`` that an earlier run has written."""

    number: int
    result: dict[str, Any]


def read_lines(
    data: Iterable[bytes],
    run_key: str,
    defaults: Mapping[str, Any],
    *,
    max_bytes: int = MAX_JOB_BYTES,
) -> Iterator[Line | BadLine]:
    """Yield the lines of a JSONL file, numbered from 1, without blank ones.

    A line is a job object, an object with ``prompt`` in place of ``messages`` (and optionally
    ``system``), or a string. ``defaults`` are fields of the job object; fields of the line win.
    ``max_bytes`` limits a job object.

    The job ID is a hash of ``run_key``, the payload, and the number of earlier lines with an equal
    payload. So an inserted line changes the ID of no other line.
    """
    seen: dict[int, int] = {}
    for number, raw in enumerate(data, 1):
        text = (raw.removeprefix(_BOM) if number == 1 else raw).strip()
        if text:
            try:
                line = _line(number, text, defaults, max_bytes)
            except (InvalidJob, ValueError, RecursionError) as error:
                yield BadLine(number, str(error))
                continue
            if not line.own_id:
                key = int(line.fingerprint[:16], 16)
                seen[key] = twin = seen.get(key, -1) + 1
                digest = hashlib.sha256(f"{run_key} {twin} {line.fingerprint}".encode())
                line = replace(line, job_id=f"batch-{digest.hexdigest()[:32]}")
            yield line


def _line(number: int, text: bytes, defaults: Mapping[str, Any], max_bytes: int) -> Line:
    if len(text) > 2 * max_bytes:
        raise InvalidJob(f"the line has {len(text)} bytes: a job has at most {max_bytes}")
    try:
        obj = json.loads(text)
    except UnicodeDecodeError as error:
        raise InvalidJob(f"not UTF-8 text (byte {error.start + 1} of the line)") from None
    except (ValueError, RecursionError) as error:  # nested too deeply
        raise InvalidJob(f"not JSON: {error}") from None
    if isinstance(obj, str):
        obj = {"prompt": obj}
    if not isinstance(obj, dict):
        raise InvalidJob("neither an object nor a string")
    label = obj.pop("id", None)
    if label is not None and (not isinstance(label, str | int) or isinstance(label, bool)):
        raise InvalidJob("id: must be a string or an integer")
    job = _job(obj, defaults)
    own_id = job.get("job_id")
    if own_id is not None and not is_job_id(own_id):
        raise InvalidJob("job_id: must be 1 to 128 characters of A-Z a-z 0-9 _ -")
    parse_job(job, own_id or "batch-", max_bytes=max_bytes)
    return Line(number, own_id or "", job, label, fingerprint(job), own_id is not None)


def _job(obj: dict[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    if "prompt" in obj:
        prompt = obj.pop("prompt")
        if "messages" in obj:
            raise InvalidJob("prompt and messages exclude each other")
        if not isinstance(prompt, str) or not prompt.strip():
            raise InvalidJob("prompt: must be a string that is not empty")
        obj["messages"] = [{"role": "user", "content": prompt}]
    if not isinstance(obj.get("messages"), list):
        raise InvalidJob("neither prompt nor messages")
    fields = {name: value for name, value in defaults.items() if value is not None}
    return build_job(fields, {"system": fields.pop("system", None), **obj})


def completed(line: Line, result: Result) -> dict[str, Any]:
    """Return the result of a completed job; fields that few jobs have are left out if empty.

    ``tool_calls`` are in the form of the next request's assistant message.
    """
    others = {
        "reasoning": result.reasoning,
        "tool_calls": [call.as_message_part() for call in result.tool_calls],
        "usage_total": result.usage_total,
    }
    return _result(
        line,
        "completed",
        text=result.text,
        finish_reason=result.finish_reason,
        usage=result.usage,
        timings=result.timings.model_dump(),
        **{name: value for name, value in others.items() if value},
    )


def ended(line: Line, end: Failed | Cancelled) -> dict[str, Any]:
    """Return the result of a job that failed or was cancelled."""
    if isinstance(end, Failed):
        return _result(line, "failed", error=end.error.model_dump(mode="json"))
    return _result(line, "cancelled", reason=end.reason)


def expired(line: Line) -> dict[str, Any]:
    """Return the result of a job that was sent and whose log has expired."""
    message = "it was sent before, and its log has expired"
    return _result(
        line, "expired", error={"code": "expired", "message": message, "retryable": True}
    )


def refused(line: Line | BadLine, problem: str) -> dict[str, Any]:
    """Return the result of a line that is not a valid job."""
    error = {"code": "invalid_job", "message": problem, "retryable": False}
    return _result(line, "failed", error=error)


def _result(line: Line | BadLine, status: str, **rest: Any) -> dict[str, Any]:
    head: dict[str, Any] = {"line": line.number}
    if isinstance(line, Line) and line.label is not None:
        head["id"] = line.label
    head["job_id"] = line.job_id
    if isinstance(line, Line):
        if line.fingerprint:
            head["fingerprint"] = line.fingerprint
        if line.retry:
            head["retry"] = line.retry
    return {**head, "status": status, **rest}
