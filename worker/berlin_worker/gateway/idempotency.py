"""The job ID of a request with an ``Idempotency-Key`` (pure)."""

import hashlib
import json
from typing import Any, Final

from aiohttp import web

from berlin_schemas.errors import ErrorCode
from berlin_worker.gateway.problems import Problem

_LONGEST: Final = 255


def job_id_of(request: web.Request, job: dict[str, Any], tenant: str | None) -> str | None:
    """Return the ID that the key of a request gives its job within ``tenant``, or ``None``.

    Raises a 400 for a key that is too long, or beside a job ID.
    """
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return None
    if not 0 < len(key) <= _LONGEST:
        raise Problem(400, ErrorCode.INVALID_JOB, "Idempotency-Key: it has 1 to 255 characters")
    if job.get("job_id") is not None:
        message = "job_id: give a job_id or an Idempotency-Key, not both"
        raise Problem(400, ErrorCode.INVALID_JOB, message, param="job_id")
    scope = json.dumps([tenant, key]).encode()
    return f"idem-{hashlib.sha256(scope).hexdigest()[:40]}"
