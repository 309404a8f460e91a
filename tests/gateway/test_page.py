"""The page, in a real browser: stream, reload, cancel, and losses in mid-stream."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from berlin_worker.gateway.event_stream import OpenStreams
from berlin_worker.testing import InProcessWorker
from tests.gateway.conftest import Harness, announce, serve
from tests.support.browser import Page, browser, new_page
from tests.support.fleet import QUICK_LEASES, Fleet
from tests.support.waiting import until

pytestmark = pytest.mark.integration

TEXT = "document.getElementById('text').textContent"
STATE = "document.getElementById('state').textContent"


@pytest.fixture(scope="module")
def chromium() -> Iterator[int]:
    with browser() as port:
        yield port


@pytest.fixture
async def page(chromium: int) -> AsyncIterator[Page]:
    async with new_page(chromium) as page:
        yield page


async def send(page: Page, harness: Harness, prompt: str, *, tenant: str = "acme") -> None:
    await page.until("document.readyState === 'complete'")
    await page.run(
        f"""document.getElementById('key').value = {harness.keys[tenant]!r};
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


async def test_answer_has_reasoning_calls_and_figures(page: Page, harness: Harness) -> None:
    await page.open(harness.url + "/")
    await send(page, harness, "THINK CALLME text")
    await page.until(f"{STATE}.startsWith('completed')")
    assert await page.run(TEXT) == "text "
    reasoning = "document.getElementById('reasoning')"
    assert await page.run(f"[{reasoning}.hidden, {reasoning}.open]") == [False, False]
    assert await page.run(f"{reasoning}.lastElementChild.textContent") == "THINK "
    calls = await page.run("document.getElementById('calls').innerText")
    assert "CALLME" in calls
    assert '{"of": 1}' in calls
    figures = await page.run("document.getElementById('figures').innerText")
    for name in ("in the queue", "to the first text", "in all", "attempts\n1", "tokens\n3 + 2"):
        assert name in figures


async def test_fleet_is_the_second_view_and_the_keyboard_reaches_it(
    page: Page, worker: InProcessWorker, harness: Harness
) -> None:
    await announce(worker.redis_url, w1={})
    await page.open(harness.url + "/")
    await page.until("document.readyState === 'complete'")
    await page.run(f"document.getElementById('key').value = {harness.keys['acme']!r}")
    await page.run(
        """document.getElementById('tab-prompt').dispatchEvent(
            new KeyboardEvent('keydown', { key: 'ArrowRight' }))"""
    )
    await page.until("document.getElementById('fleet-problem').textContent.includes('fleet')")
    assert await page.run("document.getElementById('view-prompt').hidden") is True
    await page.run(f"document.getElementById('key').value = {harness.keys['operator']!r}")
    await page.until("document.getElementById('worker-rows').innerText.includes('h:7')")
    assert await page.run("document.getElementById('fleet-problem').hidden") is True
    figures = await page.run("document.getElementById('fleet-figures').innerText")
    assert "3/10 in flight" in figures
    await page.run("document.getElementById('tab-prompt').click()")
    assert await page.run("document.getElementById('view-fleet').hidden") is True


async def test_stream_comes_back_to_a_gateway_that_has_refused_it(
    page: Page, worker: InProcessWorker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve(worker.redis_url, tmp_path, gateway_keys="") as harness:
        await page.open(harness.url + "/")
        await send(page, harness, "one HANG")  # without keys the page is the gateway's own
        await page.until(f"{TEXT} === 'one '")
        harness.gateway.followers.stop()
        await until(lambda: "an event stream ends at once" in caplog.text)
        harness.gateway.followers = OpenStreams()
        await until(lambda: harness.gateway.followers.count == 1)
        await page.run("document.getElementById('cancel').click()")
        await page.until(f"{STATE} === 'cancelled: requested'")
        assert await page.run(TEXT) == "one "


async def test_stream_continues_after_its_worker_was_killed(
    page: Page, fleet: Fleet, tmp_path: Path
) -> None:
    async with serve(fleet.env["REDIS_URL"], tmp_path) as harness:
        await page.open(harness.url + "/")
        await send(page, harness, "[[stall:2*1]] a b c d")
        await page.until(f"{STATE} === 'in the queue: number 1 of 1 that wait'")
        with fleet.worker(**QUICK_LEASES) as first:
            await page.until(f"{TEXT} !== ''")
            first.kill()
        with fleet.worker(**QUICK_LEASES):
            await page.until(f"{STATE} === 'completed: stop'")
        assert await page.run(TEXT) == "echo of [[stall:2*1]] a b c d"
        assert "attempts\n2" in await page.run("document.getElementById('figures').innerText")
