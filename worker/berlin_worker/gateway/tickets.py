"""Tickets: each lets its holder read one job for a quarter of an hour (pure).

A ticket is ``<job ID>.<Unix time of its end>.<HMAC-SHA256 of both, base64url>``. A browser puts it
into a URL, because EventSource sends no headers. So a ticket is short-lived and for reading only.
"""

import base64
import hashlib
import hmac
import re
from typing import Final

from berlin_schemas.names import is_job_id

LIFETIME_S: Final = 15 * 60
_TICKET: Final = re.compile(r"([A-Za-z0-9_-]{1,128})\.([0-9]{1,12})\.([A-Za-z0-9_-]{43})", re.ASCII)


def issue(secret: bytes, job_id: str, now_s: float) -> str:
    """Return a ticket for ``job_id`` that ends ``LIFETIME_S`` after ``now_s``, Unix seconds."""
    end = int(now_s) + LIFETIME_S
    return f"{job_id}.{end}.{_signature(secret, job_id, end)}"


def redeem(secret: bytes, ticket: str, now_s: float) -> str | None:
    """Return the job ID of a valid ticket, ``None`` for any other text."""
    found = _TICKET.fullmatch(ticket)
    if found is None or not is_job_id(found[1]):
        return None
    job_id, end = found[1], int(found[2])
    genuine = hmac.compare_digest(_signature(secret, job_id, end), found[3])
    return job_id if genuine and now_s < end else None


def _signature(secret: bytes, job_id: str, end: int) -> str:
    digest = hmac.new(secret, f"ticket:{job_id}.{end}".encode(), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
