"""Headless Chromium, driven by its DevTools protocol."""

import asyncio
import contextlib
import itertools
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final, Self

import aiohttp

from tests.support.needed import needed

_OPTIONS: Final = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--remote-debugging-port=0",
)  # fmt: skip
_START_S: Final = 60.0


class Page:
    """One page. ``run`` evaluates JavaScript in it."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._ids = itertools.count(1)

    async def open(self, url: str) -> Self:
        """Go to ``url``."""
        await self._call("Page.navigate", url=url)
        return self

    async def reload(self) -> None:
        """Load the page again."""
        await self._call("Page.reload")

    async def run(self, script: str) -> Any:
        """Return what ``script`` evaluates to, as JSON has it. Raises ``AssertionError``."""
        found = await self._call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def until(self, script: str, timeout_s: float = 60.0) -> Any:
        """Return the value of ``script`` as soon as it is true."""
        value = None
        try:
            async with asyncio.timeout(timeout_s):
                while not value:
                    with contextlib.suppress(AssertionError):  # the page loads
                        value = await self.run(script)
                    await asyncio.sleep(0.02)
        except TimeoutError:
            shown = await self.run("document.body.innerText")
            raise AssertionError(f"never true: {script}; the page shows: {shown}") from None
        return value

    async def _call(self, method: str, **params: Any) -> Any:
        number = next(self._ids)
        await self._socket.send_json({"id": number, "method": method, "params": params})
        async for message in self._socket:
            answer = json.loads(message.data)
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]
        raise AssertionError("the browser has gone")


@contextlib.contextmanager
def browser() -> Iterator[int]:
    """Run Chromium with an empty profile; yields the port of its DevTools."""
    binary = needed(shutil.which("chromium"), "chromium")
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
        subprocess.Popen(
            [binary, *_OPTIONS, f"--user-data-dir={profile}", "about:blank"],
            stderr=subprocess.DEVNULL,
        ) as process,
    ):
        try:
            yield _port(Path(profile), process)
        finally:
            process.kill()


@contextlib.asynccontextmanager
async def new_page(port: int) -> AsyncIterator[Page]:
    """Open a page of the browser at ``port``; it is closed at the end."""
    address = f"http://127.0.0.1:{port}/json"
    async with aiohttp.ClientSession() as http:
        async with http.put(f"{address}/new?about:blank") as response:
            opened = await response.json()
        try:
            async with http.ws_connect(opened["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                yield Page(socket)
        finally:
            async with http.get(f"{address}/close/{opened['id']}") as response:
                await response.read()


def _port(profile: Path, process: subprocess.Popen[bytes]) -> int:
    file = profile / "DevToolsActivePort"
    give_up = time.monotonic() + _START_S
    while not (file.exists() and "\n" in file.read_text()):
        assert process.poll() is None, "Chromium has ended"
        assert time.monotonic() < give_up, "Chromium does not start"
        time.sleep(0.05)
    return int(file.read_text().splitlines()[0])
