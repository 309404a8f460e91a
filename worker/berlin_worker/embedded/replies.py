"""Replies of the stand-in upstream, and how they are sent."""

import asyncio
import itertools
import json
import textwrap
import zlib
from collections.abc import Iterator
from typing import Any, Final

from aiohttp import web

from berlin_worker.embedded.faults import Plan, without_faults

_GARBAGE: Final = b"<html><body>502 Bad Gateway</body></html>\n"
_BOMB_PIECE_BYTES: Final = 1_000_000


def pleasant_reply(prompt: str) -> str:
    """Return the text of the demo: it quotes the prompt and explains the steps."""
    asked = without_faults(prompt).removesuffix("\nAssistant:").rpartition("User: ")[2]
    quoted = textwrap.shorten(asked, 120, placeholder=" …")
    return (
        f"You asked: “{quoted}” I am only a stand-in for a language model, so I cannot tell. "
        "But I can tell what is happening. Each of these words left me as one line of JSON. "
        "A worker read it, and in one step wrote it to the log of your job and published it "
        "on its channel, where you are reading it now. Come late, and the log will tell you "
        "what you missed. Stop the worker, and another one will take your job over."
    )


async def send(
    request: web.Request,
    plan: Plan,
    secrets: tuple[str, ...],
    lines: Iterator[bytes] | None = None,
    content_type: str = "application/octet-stream",
) -> web.StreamResponse:
    """Send the reply that ``plan`` describes, up to the end of the body.

    ``lines`` are those of another protocol than Berlin's. The error body of the fault ``leak``
    repeats ``secrets``.
    """
    if plan.silent == "mute":
        await asyncio.Event().wait()
    if plan.silent == "drop":
        return await _hang_up(request, web.StreamResponse())
    if plan.status != web.HTTPOk.status_code:
        return error_reply(plan, secrets, {"code": plan.status})
    response = web.StreamResponse(headers={"Content-Type": content_type})
    squeeze = None
    if plan.gzip or plan.bomb_bytes:
        response.headers["Content-Encoding"] = "gzip"
        squeeze = zlib.compressobj(wbits=16 + zlib.MAX_WBITS)
    await response.prepare(request)
    for piece in _pieces(plan, _lines(plan) if lines is None else lines):
        # Also without a delay: other requests must be served in between.
        await asyncio.sleep(plan.delay_s if plan.drip_s is None else plan.drip_s)
        data = piece
        if squeeze is not None:
            data = squeeze.compress(piece) + squeeze.flush(zlib.Z_SYNC_FLUSH)
        await response.write(data)
    if plan.end == "stall":
        await asyncio.Event().wait()
    if plan.end == "cut":
        return await _hang_up(request, response)
    if squeeze is not None and plan.end != "unfinished":
        await response.write(squeeze.flush())
    return response  # aiohttp sends the end of the body after the handler has returned


def line(delta: str) -> bytes:
    """Return one delta as a line of the upstream protocol."""
    return json.dumps({"content": delta}, ensure_ascii=False).encode() + b"\n"


def _pieces(plan: Plan, lines: Iterator[bytes]) -> Iterator[bytes]:
    if plan.drip_s is None:
        return lines
    return (bytes([byte]) for piece in lines for byte in piece)


def _lines(plan: Plan) -> Iterator[bytes]:
    if plan.bomb_bytes:
        yield b'{"content": "'
        for sent in range(0, plan.bomb_bytes, _BOMB_PIECE_BYTES):
            yield b"0" * min(_BOMB_PIECE_BYTES, plan.bomb_bytes - sent)
        yield b'"}\n'
    if plan.raw is not None:
        yield plan.raw
        return
    lines = [line(chunk) for chunk in plan.chunks]
    yield from itertools.cycle(lines) if plan.end == "endless" else lines
    if plan.end == "garbage":
        yield _GARBAGE
    if plan.end == "half":
        yield line("cut off")[:-6]


def error_reply(plan: Plan, secrets: tuple[str, ...], body: dict[str, Any]) -> web.Response:
    """Return the reply with an error status; a message is added to ``body``."""
    message = f"{plan.status} as ordered"
    if plan.leak:
        message = "refused:\n\x1b[31m" + " / ".join(secrets)
    headers = {"Retry-After": plan.retry_after} if plan.retry_after is not None else {}
    if web.HTTPMultipleChoices.status_code <= plan.status < web.HTTPBadRequest.status_code:
        headers["Location"] = "/api/elsewhere"
    return web.json_response({"message": message, **body}, status=plan.status, headers=headers)


async def _hang_up(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.close()
    await asyncio.Event().wait()  # the closed connection cancels this handler
    return response
