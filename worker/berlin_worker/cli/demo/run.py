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
from berlin_worker.cli.demo.stack import Setup, demo_redis, demo_setup
from berlin_worker.cli.errors import Problem
from berlin_worker.cli.interrupts import interruptible
from berlin_worker.cli.job_options import from_prompt
from berlin_worker.cli.output import printable, say
from berlin_worker.cli.stdout import Stdout
from berlin_worker.cli.views import TextView, exit_code
from berlin_worker.client import AsyncClient, ClientError
from berlin_worker.settings import Settings

_NEXT = (
    ('demo "Hello [[cut:20*1]]"', "the stand-in breaks off once: see the retry"),
    ("demo --keep", "leaves it all running, for other commands and programs of yours"),
    ("doctor", "checks your Redis, and the login at your upstream"),
    ("worker", "with REDIS_URL, BERLIN_ACCOUNT and BERLIN_PASSWORD set"),
    ('submit "Hello"', "in another terminal"),
)


@dataclass(slots=True)
class DemoStats:
    """What was seen of the job, times in seconds since it was submitted."""

    events: int = 0
    first_text_s: float | None = None
    total_s: float = 0.0
    end: Event | None = None


def run(prompt: str, *, keep: bool) -> int:
    """Run the demo, and ``keep`` what it has started until a signal; returns the exit code."""
    job = from_prompt(prompt)
    started = time.monotonic()
    with interruptible(), contextlib.ExitStack() as stack:
        console = Console(stderr=True)
        spinner = "dots" if console.encoding.startswith("utf") else "line"
        with console.status("starting Redis, an upstream and a worker ...", spinner=spinner):
            url, told = stack.enter_context(demo_redis(os.environ))
            setup = stack.enter_context(demo_setup(url, told, os.environ))
        _introduce(setup, time.monotonic() - started)
        story = asyncio.run(_stream(setup.settings, job))
        _sum_up(setup, story, keep=keep)
        if keep:
            _keep(setup)
    return exit_code(story.end)


def _keep(setup: Setup) -> None:
    """Leave all running until Ctrl-C."""
    say("Redis, stand-in and worker go on. In a second terminal:\n")
    for line in setup.exports:
        say(f"  {line}")
    say(f'\n  {_program()} submit "Hello"\n\nCtrl-C stops everything.')
    try:
        ended = setup.watch()
    except KeyboardInterrupt:
        say("stopping Redis, stand-in and worker", dim=True)
        return
    raise Problem(ended, advice="start the demo again")


async def _stream(settings: Settings, job: dict[str, object]) -> DemoStats:
    story, job_id = DemoStats(), new_job_id()
    started = time.monotonic()
    async with AsyncClient(settings=settings) as client:
        with Stdout() as out:
            view = TextView(is_terminal=out.is_terminal, encoding=out.encoding)
            try:
                async for event in client.submit_and_stream(job, job_id=job_id):
                    story.total_s = time.monotonic() - started
                    story.events += 1
                    story.end = event
                    if story.first_text_s is None and isinstance(event, Chunk):
                        story.first_text_s = story.total_s
                    shown = view.show(event)
                    await out.write(shown.out)
                    if shown.notice:
                        say(printable(shown.notice), fg="yellow")
            finally:
                if story.end is None or story.end.type not in TERMINAL_TYPES:
                    with contextlib.suppress(ClientError):
                        await client.cancel(job_id)
    return story


def _introduce(setup: Setup, took_s: float) -> None:
    say(f"redis     {setup.redis}", dim=True)
    say(f"upstream  a stand-in at {setup.upstream.url}", dim=True)
    say(f"worker    celery -A berlin_worker worker, process {setup.worker.pid}", dim=True)
    say(f"          all up after {took_s:.1f} s\n", dim=True)


def _sum_up(setup: Setup, story: DemoStats, *, keep: bool) -> None:
    first = "no text" if story.first_text_s is None else f"first text {story.first_text_s:.2f} s"
    say(f"\n{story.events} events: {first} after it was sent, all of it {story.total_s:.1f} s.")
    logins, calls = setup.upstream.logins, setup.upstream.completion_calls
    say(f"The worker has logged in {_times(logins)} and called the upstream {_times(calls)}.\n")
    if keep:
        return
    say("Next:")
    program = _program()
    width = max(len(command) for command, _ in _NEXT)
    for command, told in _NEXT:
        say(f"  {program} {command.ljust(width)}  {click.style(told, dim=True)}")


def _program() -> str:
    """How the user may call this program: by its name, or by its path in an environment."""
    started = Path(sys.argv[0])
    found = shutil.which(started.name)
    if found and started.exists() and Path(found).samefile(started):
        return started.name
    with contextlib.suppress(ValueError):
        return str(started.absolute().relative_to(Path.cwd()))
    return str(started)


def _times(number: int) -> str:
    return {1: "once", 2: "twice"}.get(number, f"{number} times")
