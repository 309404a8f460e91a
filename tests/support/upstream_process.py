"""The stand-in upstream in a process of its own: thousands of streams cost the test nothing.

Its reply is the prompt without the faults in it. So each job has an expected text.
"""

import asyncio
import json
import subprocess
import sys
import threading
from contextlib import AbstractContextManager
from typing import Any, Self

from berlin_worker.embedded.faults import without_faults
from berlin_worker.embedded.upstream import Upstream
from tests.support.fork_server import PythonProcess
from tests.support.workers import ROOT


class UpstreamProcess(AbstractContextManager["UpstreamProcess"]):
    """:class:`berlin_worker.embedded.upstream.Upstream`, asked over pipes; ``options`` are JSON."""

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._lock = threading.Lock()

    def ask(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Return an attribute of the upstream, or the result of a call of its method."""
        with self._lock:
            line = json.dumps([name, args, kwargs])
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
            return json.loads(self._process.stdout.readline())

    def __enter__(self) -> Self:
        self._process: Any = PythonProcess[str](
            [sys.executable, "-m", "tests.support.upstream_process", json.dumps(self._options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        self.url: str = self.ask("url")
        self.environ: dict[str, str] = self.ask("environ")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()  # the process ends when its input does
        self._process.stdout.close()
        self._process.wait()


async def _serve(options: dict[str, Any]) -> None:
    async with Upstream(reply=without_faults, **options) as upstream:
        while line := await asyncio.to_thread(sys.stdin.readline):
            name, args, kwargs = json.loads(line)
            value = getattr(upstream, name)
            detail = value(*args, **kwargs) if callable(value) else value
            sys.stdout.write(json.dumps(detail) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(_serve(json.loads(sys.argv[1])))
