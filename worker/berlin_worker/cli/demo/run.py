"""Stream a prompt through a whole setup, and clean up."""

import asyncio
import contextlib
import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console

from berlin_schemas import Chunk, Event
from berlin_schemas.events import TERMINAL_TYPES
from berlin_schemas.names import new_job_id
from berlin_worker.cli.demo.stack import Setup, demo_redis, demo_setup, demo_topology
from berlin_worker.cli.errors import Problem
from berlin_worker.cli.interrupts import interruptible
from berlin_worker.cli.job_options import from_prompt
from berlin_worker.cli.output import print_err, printable
from berlin_worker.cli.stdout import Stdout
from berlin_worker.cli.views import TextView, exit_code
from berlin_worker.client import AsyncClient, ClientError
from berlin_worker.embedded.openai_upstream import OpenAIUpstream
from berlin_worker.embedded.upstream import Upstream
from berlin_worker.settings import Settings

_NEXT = (
    ('demo "Hello [[cut:20*1]]"', "the stand-in breaks off once: see the retry"),
    ("demo --keep", "leaves everything running for other commands and programs"),
    ('demo --provider openai "Hello"', "speaks the protocol of OpenAI, vLLM, Ollama, ..."),
    ("doctor", "checks your Redis, and the login at your upstream"),
    ("worker", "with REDIS_URL, and OPENAI_BASE_URL or BERLIN_ACCOUNT and BERLIN_PASSWORD set"),
    ('submit "Hello"', "in another terminal"),
)


@dataclass(slots=True)
class DemoStats:
    """Figures of the job; times are seconds since it was submitted."""

    events: int = 0
    first_text_s: float | None = None
    total_s: float = 0.0
    end: Event | None = None


def run(prompt: str, *, provider: str, keep: bool, topology: str = "single") -> int:
    """Run the demo, and return the exit code. With ``keep`` its servers run until a signal."""
    job = from_prompt(prompt)
    if provider == "openai":
        job |= {"provider": provider, "model": "stand-in"}
    started = time.monotonic()
    with interruptible(), contextlib.ExitStack() as stack:
        console = Console(stderr=True)
        spinner = "dots" if console.encoding.startswith("utf") else "line"
        with console.status("starting Redis, an upstream and a worker ...", spinner=spinner):
            broker_url = ""
            if topology == "single":
                url, label = stack.enter_context(demo_redis(os.environ))
            else:
                url, label, broker_url = stack.enter_context(demo_topology(topology))
            setup = stack.enter_context(demo_setup(url, label, os.environ, provider, broker_url))
        _introduce(setup, time.monotonic() - started)
        stats = asyncio.run(_stream(setup.settings, job))
        _sum_up(setup, stats, keep=keep)
        if keep:
            _keep(setup)
    return exit_code(stats.end)


def _keep(setup: Setup) -> None:
    """Wait until Ctrl-C. Raises ``Problem`` if the worker or Redis ends before."""
    print_err("Redis, stand-in and worker keep running. In a second terminal:\n")
    for line in setup.exports:
        print_err(f"  {line}")
    print_err(f'\n  {_program()} submit{_as(setup)} "Hello"\n\nCtrl-C stops everything.')
    try:
        ended = setup.watch()
    except KeyboardInterrupt:
        print_err("stopping Redis, stand-in and worker", dim=True)
        return
    raise Problem(ended, hint="start the demo again")


async def _stream(settings: Settings, job: dict[str, object]) -> DemoStats:
    stats, job_id = DemoStats(), new_job_id()
    started = time.monotonic()
    async with AsyncClient(settings=settings) as client:
        with Stdout() as out:
            view = TextView(is_terminal=out.is_terminal, encoding=out.encoding)
            try:
                async for event in client.submit_and_stream(job, job_id=job_id):
                    stats.total_s = time.monotonic() - started
                    stats.events += 1
                    stats.end = event
                    if stats.first_text_s is None and isinstance(event, Chunk):
                        stats.first_text_s = stats.total_s
                    shown = view.render(event)
                    await out.write(shown.out)
                    if shown.notice:
                        print_err(printable(shown.notice), fg="yellow")
            finally:
                if stats.end is None or stats.end.type not in TERMINAL_TYPES:
                    with contextlib.suppress(ClientError):
                        await client.cancel(job_id)
    return stats


def _introduce(setup: Setup, took_s: float) -> None:
    print_err(f"redis     {setup.redis}", dim=True)
    print_err(f"upstream  a stand-in at {setup.upstream.url}", dim=True)
    print_err(f"worker    celery -A berlin_worker worker, process {setup.worker.pid}", dim=True)
    print_err(f"          all up after {took_s:.1f} s\n", dim=True)


def _sum_up(setup: Setup, stats: DemoStats, *, keep: bool) -> None:
    first = "no text" if stats.first_text_s is None else f"first text {stats.first_text_s:.2f} s"
    print_err(
        f"\n{stats.events} events: {first} after it was sent, all after {stats.total_s:.1f} s."
    )
    upstream = setup.upstream
    done = f"logged in {_times(upstream.logins)} and " if isinstance(upstream, Upstream) else ""
    print_err(f"The worker has {done}called the upstream {_times(upstream.completion_calls)}.\n")
    if keep:
        return
    print_err("Next:")
    program = _program()
    width = max(len(command) for command, _ in _NEXT)
    for command, purpose in _NEXT:
        print_err(f"  {program} {command.ljust(width)}  {click.style(purpose, dim=True)}")


def _as(setup: Setup) -> str:
    is_openai = isinstance(setup.upstream, OpenAIUpstream)
    return " --provider openai --model stand-in" if is_openai else ""


def _program() -> str:
    """Return the name of this program if it is on PATH, or else its path."""
    started = Path(sys.argv[0])
    found = shutil.which(started.name)
    if found and started.exists() and Path(found).samefile(started):
        return started.name
    with contextlib.suppress(ValueError):
        return str(started.absolute().relative_to(Path.cwd()))
    return str(started)


def _times(number: int) -> str:
    return {1: "once", 2: "twice"}.get(number, f"{number} times")
