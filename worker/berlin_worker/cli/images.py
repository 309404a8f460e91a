"""Images of the command line as parts of a message."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click

from berlin_worker.cli.paths import as_file_name

_TYPES: Final = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"BM", "image/bmp"),
)
_MOST_BYTES: Final = 16 * 1024 * 1024
"""Maximum size of an image: no job can hold more."""


def with_images(job: dict[str, Any], images: Sequence[str]) -> dict[str, Any]:
    """Return ``job`` with ``images`` as parts of its last message of the user.

    An image is a path, or an ``http(s)`` URL, which the upstream loads. Raises
    ``click.ClickException`` for a file that cannot be read or is not an image.
    """
    parts = [{"type": "image_url", "image_url": {"url": _url(image)}} for image in images]
    messages = job.get("messages")
    if not isinstance(messages, list):
        messages = []
    for message in reversed(messages):
        if isinstance(message, dict) and message.get("role") == "user":
            content = message.get("content")
            before = content if isinstance(content, list) else [{"type": "text", "text": content}]
            seen = {**message, "content": [*before, *parts]}
            return {**job, "messages": [seen if each is message else each for each in messages]}
    raise click.UsageError("--image needs a message of the user.")


def media_type(data: bytes) -> str | None:
    """Return the media type of an image by its first bytes, ``None`` for anything else (pure)."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for start, kind in _TYPES if data.startswith(start)), None)


def _url(image: str) -> str:
    if image.startswith(("http://", "https://", "data:")):
        return image
    try:
        with Path(as_file_name(image)).open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise click.FileError(image, error.strerror or "cannot be read") from None
    kind = media_type(data)
    if kind is None:
        raise click.UsageError(f"{image} is not a PNG, JPEG, GIF, WebP or BMP image.")
    if len(data) > _MOST_BYTES:
        raise click.UsageError(f"{image} is too large for a job: pass its URL instead.")
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
