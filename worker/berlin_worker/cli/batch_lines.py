"""The lines of a batch: what is sent for each, and whether a result belongs to it (pure)."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from berlin_schemas import Cancelled, Failed, InvalidJob
from berlin_schemas.jobs import MAX_JOB_BYTES, parse_job
from berlin_schemas.names import is_job_id
from berlin_worker.cli.fields import build_job
from berlin_worker.client import Result

_SHOWN_BAD_LINES: Final = 5
_BOM: Final = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Line:
    """A line that can be sent; ``label`` is the ``id`` that its author gave it."""

    number: int
    job_id: str
    job: dict[str, Any]
    label: str | int | None = None


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that cannot be sent, and why."""

    number: int
    problem: str
    job_id: None = None


class WrongOutput(ValueError):
    """The results are those of another input, or no results at all."""


def read_lines(
    data: Iterable[bytes], run_key: str, defaults: Mapping[str, Any]
) -> Iterator[Line | BadLine]:
    """The lines of a JSONL file, numbered from 1; blank ones are left out.

    A line is a job object, an object with ``prompt`` in place of ``messages`` (and ``system``,
    if wanted), or a string. ``defaults`` are fields of the job object; those of the line win.
    """
    for number, raw in enumerate(data, 1):
        text = (raw.removeprefix(_BOM) if number == 1 else raw).strip()
        if text:
            try:
                yield _line(number, text, run_key, defaults)
            except (InvalidJob, ValueError, RecursionError) as error:
                yield BadLine(number, str(error))


def _line(number: int, text: bytes, run_key: str, defaults: Mapping[str, Any]) -> Line:
    if len(text) > 2 * MAX_JOB_BYTES:
        raise InvalidJob(f"the line has {len(text)} bytes: no job is that long")
    try:
        obj = json.loads(text)
    except ValueError as error:
        raise InvalidJob(f"no JSON: {error}") from None
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
    # The same line of the same run has the same ID: submitted again, it is not run again.
    digest = hashlib.sha256(f"{run_key} {number} ".encode())
    job_id = own_id or "batch-"
    _, data = parse_job(job, job_id)
    digest.update(data)
    return Line(number, own_id or f"batch-{digest.hexdigest()[:32]}", job, label)


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


@dataclass(slots=True)
class Survey:
    """What a batch has to do, known before anything is sent."""

    total: int = 0
    done: int = 0
    last_done: int = 0
    """Number of the last line that has a result."""
    failed: int = 0
    """Results that are no completed job."""
    bad: int = 0
    bad_examples: list[BadLine] = field(default_factory=list)


def survey(lines: Iterable[Line | BadLine], results: Iterable[bytes]) -> Survey:
    """Check all lines, and the results that are there against them.

    Raises :class:`WrongOutput` where a result is not that of its line.
    """
    found = Survey()
    given = iter(results)
    for line in lines:
        found.total += 1
        if isinstance(line, BadLine):
            found.bad += 1
            if found.bad <= _SHOWN_BAD_LINES:
                found.bad_examples.append(line)
        if (result := next(given, None)) is not None:
            found.failed += _check_result(result, line) != "completed"
            found.done += 1
            found.last_done = line.number
    if next(given, None) is not None:
        raise WrongOutput("it holds more results than the input has lines")
    return found


def _check_result(result: bytes, line: Line | BadLine) -> object:
    try:
        told = json.loads(result)
    except ValueError:
        told = None
    if not isinstance(told, dict) or told.get("line") != line.number:
        raise WrongOutput(f"where the result of line {line.number} should be, there is another")
    if told.get("job_id") != line.job_id:
        raise WrongOutput(f"the result of line {line.number} is that of another job")
    return told.get("status")


def completed(line: Line, result: Result) -> dict[str, Any]:
    """The result of a completed job."""
    return _result(
        line,
        "completed",
        text=result.text,
        finish_reason=result.finish_reason,
        usage=result.usage,
        timings=result.timings.model_dump(),
    )


def ended(line: Line, end: Failed | Cancelled) -> dict[str, Any]:
    """The result of a job that failed or was cancelled."""
    if isinstance(end, Failed):
        return _result(line, "failed", error=end.error.model_dump(mode="json"))
    return _result(line, "cancelled", reason=end.reason)


def expired(line: Line) -> dict[str, Any]:
    """The result of a job that was sent, but whose log is gone."""
    told = "it was sent before, and its log has expired"
    return _result(line, "expired", error={"code": "expired", "message": told, "retryable": True})


def refused(line: BadLine) -> dict[str, Any]:
    """The result of a line that was not sent."""
    error = {"code": "invalid_job", "message": line.problem, "retryable": False}
    return _result(line, "failed", error=error)


def _result(line: Line | BadLine, status: str, **rest: Any) -> dict[str, Any]:
    label = {"id": line.label} if isinstance(line, Line) and line.label is not None else {}
    return {"line": line.number, **label, "job_id": line.job_id, "status": status, **rest}
