"""Jobs near the largest size that a setting allows, with an image as a data URL."""

import json
from typing import Any, Final

from berlin_schemas.jobs import LARGEST_JOB_BYTES
from berlin_worker.client import Client, Result
from berlin_worker.settings import Settings

LARGEST: Final = {"WORKER_MAX_JOB_BYTES": str(LARGEST_JOB_BYTES)}
"""The setting of workers and clients."""
_URL: Final = "data:image/png;base64,"


def image_job(size: int, text: str = "What is this?") -> dict[str, Any]:
    """Return a job of ``size`` bytes of compact JSON: ``text``, and an image that fills it up."""
    image = {"url": _URL}
    parts = [{"type": "text", "text": text}, {"type": "image_url", "image_url": image}]
    job: dict[str, Any] = {
        "provider": "openai",
        "model": "stand-in",
        "messages": [{"role": "user", "content": parts}],
    }
    used = len(json.dumps(job, ensure_ascii=False, separators=(",", ":")).encode())
    assert used <= size
    image["url"] += "iVBORw0KGgo/+9Aa" * ((size - used) // 16) + "A" * ((size - used) % 16)
    return job


def submitted(env: dict[str, str], job: dict[str, Any]) -> Result:
    """Submit a job by the client, and return its result."""
    with Client(settings=Settings.from_env(env | LARGEST)) as client:
        return client.result(client.submit(job), 60)
