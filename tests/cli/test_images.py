"""Images of the command line."""

import base64
from pathlib import Path
from typing import Any

import click
import pytest

from berlin_schemas.jobs import parse_job
from berlin_worker.cli.images import media_type, with_images

pytestmark = pytest.mark.unit

PNG = b"\x89PNG\r\n\x1a\n and so on"
JOB: dict[str, Any] = {
    "messages": [
        {"role": "user", "content": "What is this?", "name": "Ada"},
        {"role": "assistant", "content": "What?"},
    ]
}


def test_images_become_parts_of_the_last_message_of_the_user(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(PNG)
    job = with_images(JOB, [str(path), "https://images.test/b.jpg"])
    parse_job(job, "job-1")
    message, other = job["messages"]
    assert other == JOB["messages"][1]
    assert message["name"] == "Ada"
    assert message["content"] == [
        {"type": "text", "text": "What is this?"},
        {
            "type": "image_url",
            "image_url": {"url": f"data:image/png;base64,{base64.b64encode(PNG).decode()}"},
        },
        {"type": "image_url", "image_url": {"url": "https://images.test/b.jpg"}},
    ]
    again = with_images(job, ["https://images.test/c.jpg"])["messages"][0]["content"]
    assert again[:3] == message["content"]
    assert len(again) == 4


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (PNG, "image/png"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"GIF89a", "image/gif"),
        (b"RIFF1234WEBPVP8 ", "image/webp"),
        (b"RIFF1234WAVE", None),
        (b"%PDF-1.7", None),
        (b"", None),
    ],
)
def test_first_bytes_decide_the_type_of_an_image(data: bytes, kind: str | None) -> None:
    assert media_type(data) == kind


def test_invalid_image_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    with pytest.raises(click.ClickException, match="No such file"):
        with_images(JOB, [str(path)])
    path.write_bytes(b"no image")
    with pytest.raises(click.UsageError, match="is not a PNG, JPEG, GIF, WebP or BMP image"):
        with_images(JOB, [str(path)])
    with pytest.raises(click.UsageError, match="needs a message of the user"):
        with_images({"messages": []}, ["https://images.test/b.jpg"])
