"""The README's relay for FastAPI, run unchanged, with a stand-in for FastAPI over plain ASGI."""

import re
import sys
import types
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.job_writer import JobWriter
from tests.support.store_helpers import raw_log

pytestmark = pytest.mark.contract

README = Path(__file__).parents[2] / "schemas/README.md"


class StreamingResponse:
    """As Starlette's: sends what the iterator yields, by ASGI."""

    def __init__(self, content: AsyncIterator[bytes], media_type: str) -> None:
        self._content = content
        self._media_type = media_type

    async def __call__(self, send: Callable[[dict[str, Any]], Any]) -> None:
        headers = [(b"content-type", self._media_type.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async for part in self._content:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class FastAPI:
    """Stands in for FastAPI: keeps the one route of the example."""

    def get(self, path: str) -> Callable[[Any], Any]:
        def route(endpoint: Any) -> Any:
            self.path, self.endpoint = path, endpoint
            return endpoint

        return route


@pytest.fixture
def app(monkeypatch, redis_url):
    """Return the names that the example defines."""
    fastapi, responses = types.ModuleType("fastapi"), types.ModuleType("fastapi.responses")
    vars(fastapi).update(FastAPI=FastAPI, Header=object, Path=dict)
    vars(responses).update(StreamingResponse=StreamingResponse)
    monkeypatch.setitem(sys.modules, "fastapi", fastapi)
    monkeypatch.setitem(sys.modules, "fastapi.responses", responses)
    monkeypatch.setenv("REDIS_URL", redis_url)
    block = re.search(
        r"<!-- needs: fastapi -->\n```python\n(.*?)```\n", README.read_text(), re.DOTALL
    )
    assert block is not None
    found: dict[str, Any] = {}
    exec(compile(block[1], str(README), "exec"), found)
    return found


async def test_relay_of_the_readme_sends_a_job_to_a_browser(app, redis_client):
    await JobWriter(redis_client, "job-1").whole("a", "b")
    assert app["app"].path == "/jobs/{job_id}/events"
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    for last_event_id, count in ((None, 4), ("2", 2), ("-1", 4)):
        sent.clear()
        response = await app["app"].endpoint("job-1", last_event_id)
        await response(send)
        assert sent[0]["headers"] == [(b"content-type", b"text/event-stream")]
        body = b"".join(message["body"] for message in sent[1:])
        log = await raw_log(redis_client, "job-1")
        assert re.findall(rb"^data: (.*)$", body, re.MULTILINE) == log[-count:]
    await app["client"].aclose()
