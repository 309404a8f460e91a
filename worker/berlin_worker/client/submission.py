"""Makes a valid job object from what a caller passes (pure)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from berlin_schemas import InvalidJob, Message, PromptJob
from berlin_schemas.jobs import MAX_JOB_BYTES, parse_job
from berlin_schemas.names import is_job_id, new_job_id
from berlin_worker.jobs.job_facts import Facts, facts_of

Prompt = PromptJob | Mapping[str, Any] | Sequence[Message | Mapping[str, Any]] | str
"""A job, a job object, the messages of one, or the text of its only message."""


@dataclass(frozen=True, slots=True)
class Submission:
    """A job that fits the contract; ``data`` is ``job`` as compact JSON."""

    job_id: str
    job: dict[str, Any]
    data: bytes
    facts: Facts


def prepare(
    prompt: Prompt,
    job_id: str | None,
    fields: Mapping[str, Any],
    *,
    max_bytes: int = MAX_JOB_BYTES,
) -> Submission:
    """Return the submission of ``prompt``; ``fields`` override those of its job object.

    Its ID is ``job_id``, else the one that the job carries, else a new one. ``max_bytes`` limits
    its job object. Raises :class:`~berlin_schemas.InvalidJob`.
    """
    try:
        job = {**_as_object(prompt), **{name: _plain(value) for name, value in fields.items()}}
    except InvalidJob:
        raise
    except (RecursionError, ValueError):  # pydantic has no error of its own for great depth
        raise InvalidJob("the job object is nested too deeply, or holds what JSON cannot") from None
    if job_id is None:
        job_id = job.get("job_id") or new_job_id()
    if not is_job_id(job_id):
        raise InvalidJob("a job ID is 1 to 128 characters of A-Z a-z 0-9 _ -")
    parsed, data = parse_job(job, job_id, max_bytes=max_bytes)
    # The worker gets the object as JSON makes it: lists for tuples, strings for keys.
    return Submission(job_id, job, data, facts_of(json.loads(data), parsed))


def _as_object(prompt: Prompt) -> dict[str, Any]:
    if isinstance(prompt, str):
        return {"messages": [{"role": "user", "content": prompt}]}
    if isinstance(prompt, PromptJob):
        return prompt.model_dump(mode="json", exclude_unset=True)
    if isinstance(prompt, Mapping):
        return {str(name): _plain(value) for name, value in prompt.items()}
    if isinstance(prompt, Sequence) and not isinstance(prompt, bytes | bytearray):
        return {"messages": _plain(prompt)}
    raise InvalidJob("a job is a PromptJob, a dict, a list of messages or a string")


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_unset=True)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
