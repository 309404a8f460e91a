"""The job ID of a request with an ``Idempotency-Key`` (pure)."""

import hashlib
import json
import re
from typing import Any, Final

from aiohttp import web

from berlin_schemas.errors import ErrorCode
from berlin_worker.gateway.problems import Problem

KEY_PATTERN: Final = "[!-~]([ -~]{0,253}[!-~])?"
_PREFIX: Final = "idem-"
_key: Final = re.compile(KEY_PATTERN)


def job_id_of(request: web.Request, job: dict[str, Any], tenant: str | None) -> str | None:
    """Return the job ID that follows from the key of a request and from ``tenant``.

    Returns ``None`` without a key, and for a job with an ID of its own: the ID makes it safe to
    repeat. Raises a 400 for an invalid key, and for an ID that is reserved: it could be that of
    another tenant's key.
    """
    key = request.headers.get("Idempotency-Key")
    own = job.get("job_id")
    if isinstance(own, str) and own.startswith(_PREFIX):
        message = f"job_id: {_PREFIX} is reserved for jobs with an Idempotency-Key"
        raise Problem(400, ErrorCode.INVALID_JOB, message, param="job_id")
    if key is None or own is not None:
        return None
    if not _key.fullmatch(key):
        message = "Idempotency-Key: must be 1 to 255 printable ASCII characters"
        raise Problem(400, ErrorCode.INVALID_JOB, message, param="Idempotency-Key")
    scope = json.dumps([tenant, key]).encode()
    return f"{_PREFIX}{hashlib.sha256(scope).hexdigest()[:40]}"


def may_be_attached(job_id: str) -> bool:
    """Return whether a retry can reach the job by its ``Idempotency-Key``."""
    return job_id.startswith(_PREFIX)
