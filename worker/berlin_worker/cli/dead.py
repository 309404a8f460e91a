"""List and replay dead letters: jobs that could not run."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any, Final

import click

from berlin_schemas import InvalidJob, names
from berlin_worker.cli.errors import FAILED, Problem
from berlin_worker.cli.output import print_err, print_out, printable
from berlin_worker.cli.preflight import load_settings, open_redis
from berlin_worker.client import Client
from berlin_worker.storage.redis_errors import wrong_type_is_missing

_PAGE: Final = 100

Entry = tuple[str, dict[str, str]]
"""Entry ID and fields: ``job_id`` (may be empty), ``reason``, ``ts``, ``job`` or ``message``."""


def list_entries(*, as_json: bool, limit: int | None) -> None:
    """Print at most ``limit`` dead letters, newest first."""
    shown = 0
    for entry, fields in _entries(limit):
        shown += 1
        if as_json:
            click.echo(json.dumps({"entry": entry, **fields}))
        else:
            print_out(printable(f"{entry}  {fields.get('job_id') or '-'}  {fields.get('reason')}"))
    if not shown and not as_json:
        print_err("no dead letters")


def replay(entries: tuple[str, ...]) -> int:
    """Submit the jobs of dead letters again, and return the exit code."""
    settings = load_settings(needs_broker=True)
    failed = 0
    with open_redis(settings.redis_url) as redis, Client(settings=settings) as client:
        for entry in entries:
            found: Any = []
            with wrong_type_is_missing():
                found = redis.xrange(names.DEAD_LETTERS, entry, entry)
            if not found:
                raise Problem(f"dead letter {entry} does not exist")
            [letter] = found
            try:
                job_id = client.submit(job_of(letter[1]), job_id=replay_id(letter))
            except InvalidJob as error:
                failed += 1
                print_err(f"berlin: {entry} is not a job, and stays: {error}", fg="red")
                continue
            click.echo(job_id)
            redis.xdel(names.DEAD_LETTERS, entry)
    return FAILED if failed else 0


def job_of(fields: dict[str, str]) -> dict[str, Any]:
    """Return the job object of a dead letter without its old ID. Raises ``InvalidJob``."""
    try:
        job = json.loads(fields.get("job") or "null")
    except (ValueError, RecursionError):  # nested too deeply
        job = None
    if not isinstance(job, dict):
        raise InvalidJob("the dead letter holds no job object")
    # The job with the old ID has failed, and an ID runs only once.
    return {name: value for name, value in job.items() if name != "job_id"}


def replay_id(letter: Entry) -> str:
    """Return the ID of the job that replays ``letter`` (pure).

    A letter that is replayed twice gives one job: its removal may have failed, or two users have
    replayed it at once. The fields are part of the ID, since a server that has lost its data may
    give an entry ID again.
    """
    entry, fields = letter
    text = json.dumps([entry, sorted(fields.items())])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _entries(limit: int | None) -> Iterator[Entry]:
    """Yield the dead letters, newest first, read page by page."""
    end, left = "+", limit
    with open_redis(load_settings().redis_url) as redis:
        while left is None or left > 0:
            count = _PAGE if left is None else min(_PAGE, left)
            page: list[Entry] = []
            with wrong_type_is_missing():
                page = redis.xrevrange(names.DEAD_LETTERS, end, count=count)
            yield from page
            if len(page) < count:
                return
            end = f"({page[-1][0]}"
            left = None if left is None else left - count
