"""A provider that harms its own worker, and the installation that lets a worker find it.

It echoes the last message word by word. Its options:

- ``delay_s``: a pause before each word.
- ``act``: a harm after two words. ``kill`` sends SIGKILL to its own process, ``block`` blocks the
  event loop for ``block_s``, ``ignore_cancel`` hangs and swallows every cancellation.
- ``once``: a file. The harm happens only if the file does not exist yet, and creates it.
"""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from tests.support.workers import ROOT

GROUP = "berlin_worker.providers"


def installed(site: Path) -> dict[str, str]:
    """Return the environment of a worker that has this provider as ``faulty``."""
    metadata = site / "faulty-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        f"[{GROUP}]\nfaulty = tests.support.faulty_provider:FaultyProvider\n"
    )
    return {"PYTHONPATH": f"{ROOT}{os.pathsep}{site}"}


def with_clock_ahead(site: Path, seconds: float) -> dict[str, str]:
    """Return the environment of a worker whose clock is ``seconds`` ahead of all others."""
    (site / "sitecustomize.py").write_text(
        f"import time\n_time = time.time\ntime.time = lambda: _time() + {seconds}\n"
    )
    return {"PYTHONPATH": f"{ROOT}{os.pathsep}{site}"}


class FaultyProvider:
    """The provider; the docstring of the module has its options."""

    def __init__(self, services: Any) -> None:
        pass

    def check(self, job: Any) -> None:
        """Accept any job."""

    async def stream(self, job: Any, report: Any) -> AsyncGenerator[list[str], None]:
        """Yield word by word, and harm the worker after two words."""
        options = job.options
        for n, word in enumerate(job.messages[-1].content.split(" ")):
            await asyncio.sleep(options.get("delay_s", 0))
            yield [f" {word}" if n else word]
            if n == 1 and "act" in options and first_time(options.get("once")):
                if options["act"] == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                if options["act"] == "ignore_cancel":
                    await _ignore_cancel()
                time.sleep(options["block_s"])  # noqa: ASYNC251  # to block the loop is the harm


async def _ignore_cancel() -> None:
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()


def first_time(once: str | None) -> bool:
    """Return whether the file did not exist; create it."""
    if once is None:
        return True
    try:
        Path(once).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
