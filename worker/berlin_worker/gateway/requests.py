"""What requests carry: JSON bodies and numbers in the query, each with one clear error."""

import json
import re
from typing import Any, Final

from aiohttp import web

from berlin_worker.gateway.problems import Problem

_NUMBER: Final = re.compile("[0-9]{1,9}", re.ASCII)


async def json_object(request: web.Request) -> dict[str, Any]:
    """Return the JSON object in the body. Raises a 400, 413 or 415."""
    if request.content_type not in {"application/json", "application/octet-stream"}:
        raise Problem(415, "invalid_request", "send the body as application/json")
    try:
        found = json.loads(await request.read(), parse_constant=_refused)
    except web.HTTPRequestEntityTooLarge:
        raise
    except (ValueError, RecursionError):
        raise Problem(400, "invalid_json", "the body is no valid JSON in UTF-8") from None
    if not isinstance(found, dict):
        raise Problem(400, "invalid_json", "the body is no JSON object")
    return found


def _refused(name: str) -> None:
    raise ValueError(name)


def whole_number(
    request: web.Request, name: str, default: int, *, least: int = 1, most: int
) -> int:
    """Return a whole number of the query. Raises a 400 if it is none or out of bounds."""
    text = request.query.get(name)
    if text is None:
        return default
    if not _NUMBER.fullmatch(text) or not least <= int(text) <= most:
        raise Problem(
            400, "invalid_request", f"{name}: a whole number from {least} to {most}", param=name
        )
    return int(text)
