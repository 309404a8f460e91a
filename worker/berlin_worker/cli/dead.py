"""List and replay the dead letters, which are what could not be run."""

import json
from collections.abc import Iterator
from typing import Any, Final

import click

from berlin_schemas import InvalidJob, names
from berlin_worker.cli.errors import FAILED, Problem
from berlin_worker.cli.output import printable, say, show
from berlin_worker.cli.preflight import load_settings, open_redis
from berlin_worker.client import Client

_PAGE: Final = 100

Letter = tuple[str, dict[str, str]]
"""Entry ID and fields: ``job_id`` (may be empty), ``reason``, ``ts``, ``job`` or ``message``."""


def list_letters(*, as_json: bool, limit: int | None) -> None:
    """Print the dead letters, newest first, at most ``limit``."""
    shown = 0
    for entry, letter in _letters(limit):
        shown += 1
        if as_json:
            click.echo(json.dumps({"entry": entry, **letter}))
        else:
            show(printable(f"{entry}  {letter.get('job_id') or '-'}  {letter.get('reason')}"))
    if not shown and not as_json:
        say("no dead letters")


def replay(entries: tuple[str, ...]) -> int:
    """Submit the jobs in dead letters anew; returns the exit code."""
    settings = load_settings()
    failed = 0
    with open_redis(settings.redis_url) as redis, Client(settings=settings) as client:
        for entry in entries:
            found: Any = redis.xrange(names.DEAD_LETTERS, entry, entry)
            if not found:
                raise Problem(f"there is no dead letter {entry}")
            try:
                job_id = client.submit(job_of(found[0][1]))
            except InvalidJob as error:
                failed += 1
                say(f"berlin: {entry} is no job, and stays: {error}", fg="red")
                continue
            redis.xdel(names.DEAD_LETTERS, entry)
            click.echo(job_id)
    return FAILED if failed else 0


def job_of(letter: dict[str, str]) -> dict[str, Any]:
    """The job object in a letter, without its old ID; raises ``InvalidJob``."""
    try:
        job = json.loads(letter.get("job") or "null")
    except (ValueError, RecursionError):  # nested without end
        job = None
    if not isinstance(job, dict):
        raise InvalidJob("the letter holds no job object")
    # The old ID has ended as failed, and a job runs once for each ID.
    return {name: value for name, value in job.items() if name != "job_id"}


def _letters(limit: int | None) -> Iterator[Letter]:
    """The letters, newest first, read page by page."""
    end, left = "+", limit
    with open_redis(load_settings().redis_url) as redis:
        while left is None or left > 0:
            count = _PAGE if left is None else min(_PAGE, left)
            page: list[Letter] = redis.xrevrange(names.DEAD_LETTERS, end, count=count)
            yield from page
            if len(page) < count:
                return
            end = f"({page[-1][0]}"
            left = None if left is None else left - count
