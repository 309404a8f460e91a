"""Log how a job ended: one line for each job, with its figures.

As JSON it is an object with the fields of :func:`fields_of`; at a terminal it is a sentence. It
holds no prompt, no reply and no error message: a message may repeat what the upstream answered.
"""

import logging
import math
from collections.abc import Mapping
from typing import Any, Final

from berlin_schemas import Terminal
from berlin_worker.telemetry.log_context import About

logger = logging.getLogger(__name__)

EVENT: Final = "job ended"
"""The ``event`` of the line, for programs to look for."""
ATTRIBUTE: Final = "job_end"
"""The attribute of the log record that holds the fields."""


def is_logged(event: Terminal) -> bool:
    """Return whether the log takes the line of this end; if not, no figures are needed for it."""
    return logger.isEnabledFor(_level_of(event))


def log_end(
    event: Terminal,
    *,
    about: About | None,
    chunks: int,
    durations_ms: Mapping[str, float | None],
) -> None:
    """Log the end of a job: ``failed`` at level WARNING, any other end at level INFO."""
    if is_logged(event):
        fields = fields_of(event, about=about, chunks=chunks, durations_ms=durations_ms)
        logger.log(_level_of(event), EVENT, extra={ATTRIBUTE: fields})


def _level_of(event: Terminal) -> int:
    return logging.WARNING if event.type == "failed" else logging.INFO


def fields_of(
    event: Terminal,
    *,
    about: About | None,
    chunks: int,
    durations_ms: Mapping[str, float | None],
) -> dict[str, Any]:
    """Return the fields of the line; every job has all. ``None``: the worker has no value.

    ``reason`` is the finish reason of a completed job, the reason of a cancelled one, and the
    HTTP status of a failed one if the upstream sent one. ``chunks`` counts those that the
    reader keeps, which are those after the last ``reset``.
    """
    code: str | None = None
    reason: str | None
    match event.type:
        case "completed":
            reason = event.finish_reason
        case "cancelled":
            reason = event.reason
        case "failed":
            code, status = event.error.code.value, event.error.upstream_status
            reason = None if status is None else f"HTTP {status}"
    return {
        "job_id": event.job_id,
        "status": event.type,
        "error_code": code,
        "reason": reason,
        "tenant": about and about.tenant,
        "provider": about and about.provider,
        "model": about and about.model,
        "attempts": event.attempt,
        "chunks": chunks,
        # A provider may report a login that took NaN seconds, which JSON cannot hold.
        **{
            name: value if value is None or math.isfinite(value) else None
            for name, value in durations_ms.items()
        },
    }


def sentence_of(fields: Mapping[str, Any]) -> str:
    """Return the fields as a sentence for people."""
    how = fields["status"]
    if fields["error_code"] is not None:
        how += f" with {fields['error_code']}"
    if fields["reason"] not in {None, "stop"}:
        how += f" ({_printable(fields['reason'])})"
    seconds = (fields["total_ms"] or 0.0) / 1000
    attempts, chunks = fields["attempts"], fields["chunks"]
    return (
        f"job {fields['job_id']}: {how} after {seconds:.2f} s, "
        f"{attempts} attempt{'s' * (attempts != 1)}, {chunks} chunk{'s' * (chunks != 1)}"
    )


def _printable(text: str) -> str:
    # Anybody who may cancel a job gives the reason: it must not end the line or colour it.
    return "".join(each if each.isprintable() else "?" for each in text)
