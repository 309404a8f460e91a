"""The stand-in for OpenAI-compatible servers refuses what such servers refuse."""

from typing import Any

import aiohttp
import pytest

from berlin_worker.embedded.openai_upstream import OpenAIUpstream

pytestmark = pytest.mark.contract

MESSAGES = [{"role": "user", "content": "Hello"}]
PARTS = [{"role": "user", "content": [{"type": "text", "text": "Hel"}, {"type": "image_url"}]}]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ([], 400),
        ({"model": "m", "messages": MESSAGES}, 400),
        ({"model": "m", "messages": MESSAGES, "stream": "true"}, 400),
        ({"messages": MESSAGES, "stream": True}, 422),
        ({"model": "m", "messages": [], "stream": True}, 422),
        ({"model": "m", "messages": "Hello", "stream": True}, 422),
        (
            {"model": "m", "messages": [{"role": "user", "content": "[[what:1]]"}], "stream": True},
            400,
        ),
        ({"model": "m", "messages": PARTS, "stream": True}, 200),
    ],
)
async def test_requests_of_the_protocol_alone_are_answered(body: Any, status: int) -> None:
    async with OpenAIUpstream(key="") as upstream, aiohttp.ClientSession() as session:
        url = f"{upstream.environ['OPENAI_BASE_URL']}/chat/completions"
        async with session.post(url, json=body) as response:
            text = await response.text()
    assert response.status == status
    if status == 200:
        assert upstream.prompts == ["Hel"]
        assert text.endswith("data: [DONE]\n\n")
    else:
        assert "error" in text
