"""The page, in a real browser: stream, reload, cancel, and a gateway that restarts."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from berlin_worker.testing import InProcessWorker
from tests.gateway.conftest import Harness, serve
from tests.support.browser import Page, browser

pytestmark = pytest.mark.integration

TEXT = "document.getElementById('text').textContent"
STATE = "document.getElementById('state').textContent"


@pytest.fixture
async def page() -> AsyncIterator[Page]:
    async with browser() as page:
        yield page


async def send(page: Page, harness: Harness, prompt: str) -> None:
    await page.until("document.readyState === 'complete'")
    await page.run(
        f"""document.getElementById('key').value = {harness.keys["acme"]!r};
        document.getElementById('prompt').value = {prompt!r};
        document.getElementById('ask').requestSubmit()"""
    )


async def test_prompt_streams_survives_a_reload_and_is_cancelled(
    page: Page, harness: Harness
) -> None:
    await page.open(harness.url + "/")
    await send(page, harness, "one two")
    await page.until(f"{STATE}.startsWith('completed')")
    assert await page.run(TEXT) == "one two "
    assert "in all" in await page.run("document.getElementById('figures').innerText")

    await send(page, harness, "three HANG")
    await page.until(f"{TEXT} === 'three '")
    await page.reload()
    await page.until(f"document.readyState === 'complete' && {TEXT} === 'three '")
    assert await page.run("document.getElementById('cancel').disabled") is False
    await page.run(f"document.getElementById('key').value = {harness.keys['acme']!r}")
    await page.run("document.getElementById('cancel').click()")
    await page.until(f"{STATE} === 'cancelled: requested'")

    await send(page, harness, "FAIL rate_limited")
    await page.until("document.getElementById('problem').textContent.startsWith('rate_limited')")


async def test_page_asks_for_a_key_and_loads_only_its_own_files(
    page: Page, harness: Harness
) -> None:
    await page.open(harness.url + "/")
    await page.until("!document.getElementById('key-field').hidden")
    loaded = await page.run("performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert {url.partition("/")[2].partition("/")[2].partition("/")[0] for url in loaded} == {
        harness.url.removeprefix("http://")
    }
    async with harness.http.get(harness.url + "/") as response:
        policy = response.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


async def test_stream_continues_at_a_restarted_gateway(
    page: Page, worker: InProcessWorker, tmp_path: Path
) -> None:
    async with serve(worker.redis_url, tmp_path) as harness:
        port = int(harness.url.rpartition(":")[2])
        await page.open(harness.url + "/")
        await send(page, harness, "one HANG")
        await page.until(f"{TEXT} === 'one '")
        job_id = await page.run("JSON.parse(sessionStorage.getItem('berlin-job')).job_id")
    async with serve(worker.redis_url, tmp_path, port=port) as harness:
        await harness.gateway.client.cancel(job_id)
        await page.until(f"{STATE} === 'cancelled: requested'")
        assert await page.run(TEXT) == "one "
