"""A provider that harms its own worker, and the installation that lets a worker find it.

It echoes the last message word by word. Options: ``delay_s`` before each word, ``act``
(``kill``: SIGKILL for its own process; ``block``: hold up the event loop for ``block_s``;
``ignore_cancel``: hang, and swallow every cancellation) after two words, and ``once``, a file: the
act happens only as long as there is none.
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
    """The environment of a worker that has it as provider ``faulty``."""
    metadata = site / "faulty-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        f"[{GROUP}]\nfaulty = tests.support.faulty_provider:FaultyProvider\n"
    )
    return {"PYTHONPATH": f"{ROOT}{os.pathsep}{site}"}


def with_clock_ahead(site: Path, seconds: float) -> dict[str, str]:
    """The environment of a worker whose clock is ``seconds`` ahead of all others."""
    (site / "sitecustomize.py").write_text(
        f"import time\n_time = time.time\ntime.time = lambda: _time() + {seconds}\n"
    )
    return {"PYTHONPATH": f"{ROOT}{os.pathsep}{site}"}


class FaultyProvider:
    """See above."""

    def __init__(self, services: Any) -> None:
        pass

    def check(self, job: Any) -> None:
        """Anything goes."""

    async def stream(self, job: Any, report: Any) -> AsyncGenerator[list[str], None]:
        """Word by word, and a bad deed after two of them."""
        options = job.options
        for n, word in enumerate(job.messages[-1].content.split(" ")):
            await asyncio.sleep(options.get("delay_s", 0))
            yield [f" {word}" if n else word]
            if n == 1 and "act" in options and first_time(options.get("once")):
                if options["act"] == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                if options["act"] == "ignore_cancel":
                    await _ignore_cancel()
                time.sleep(options["block_s"])  # noqa: ASYNC251  # holding up the loop is the deed


async def _ignore_cancel() -> None:
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()


def first_time(once: str | None) -> bool:
    """Whether the file was not there yet; it is from now on."""
    if once is None:
        return True
    try:
        Path(once).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
