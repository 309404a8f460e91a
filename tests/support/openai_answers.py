"""Chunks of chat completions, and what the decoder makes of them."""

import itertools
import json
from typing import Any

from berlin_worker.errors import JobError
from berlin_worker.providers.deltas import Delta
from berlin_worker.providers.limits import Limits
from berlin_worker.providers.openai.reply import AnswerDecoder

LIMITS = Limits(max_line_bytes=1 << 20, max_chunks=100_000, max_text_bytes=1 << 24)
DONE = b"data: [DONE]\n\n"


USAGE = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}


def chunk(
    delta: Any = None, *, finish: str | None = None, padding: str | None = None, **fields: Any
) -> bytes:
    choice = {"index": 0, "delta": delta or {}, "logprobs": None, "finish_reason": finish}
    value = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1764412345,
        "model": "gpt-4o-mini",
        "choices": [choice],
        "usage": None,
        **fields,
    }
    if padding is not None:
        value["obfuscation"] = padding
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


def decode(
    *pieces: bytes, limits: Limits = LIMITS
) -> tuple[list[Delta], JobError | None, AnswerDecoder]:
    decoder = AnswerDecoder(limits, str)
    found: list[Delta] = []
    for piece in pieces:
        deltas, error = decoder.feed(piece)
        found += deltas
        if error:
            return found, error, decoder
    deltas, error = decoder.finish()
    return found + deltas, error, decoder


def deltas_of(*pieces: bytes) -> list[Delta]:
    found, error, _ = decode(*pieces)
    assert error is None, error
    return found


def failure(*pieces: bytes, limits: Limits = LIMITS) -> JobError:
    _, error, _ = decode(*pieces, limits=limits)
    assert error is not None
    return error


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:stop] for start, stop in itertools.pairwise(edges)]
