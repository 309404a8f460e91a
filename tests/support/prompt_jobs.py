"""Jobs as plain objects, and the message of their refusal."""

from typing import Any

import pytest

from berlin_schemas import InvalidJob
from berlin_schemas.jobs import parse_job

ID = "0b7e2c1a-9f6d-4e5b-8a3c-2d1f0e9c8b7a"
CONTENT = "must be a string, an array of parts, or null beside tool_calls"
HELLO = [{"role": "user", "content": "Hello"}]
SECRET = "my-secret-prompt"


def job(**fields: object) -> dict[str, Any]:
    return {"messages": HELLO, **fields}


def refusal(obj: object, job_id: str = ID) -> str:
    with pytest.raises(InvalidJob) as refused:
        parse_job(obj, job_id)
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__ or refused.value.__context__ is None
    return str(refused.value)


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"a": value}
    return value
