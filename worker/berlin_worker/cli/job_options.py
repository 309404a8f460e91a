"""The options that describe a job, and the job object made of them (pure)."""

import functools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

import click

from berlin_worker.cli.complete import models, providers
from berlin_worker.cli.numbers import Seconds

F = TypeVar("F", bound=Callable[..., Any])

_SECONDS: Final = Seconds(above=True)


def check_id(ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    """Check a job ID before a request to Redis (a callback of click)."""
    if value is None or ctx.resilient_parsing:
        return value
    from berlin_schemas.names import is_job_id

    if not is_job_id(value):
        raise click.BadParameter("a job ID is 1 to 128 characters of A-Z a-z 0-9 _ -")
    return value


def _key_values(
    _ctx: click.Context, _param: click.Parameter, given: Iterable[str]
) -> dict[str, Any] | None:
    return dict(map(key_value, given)) or None


def key_value(text: str) -> tuple[str, Any]:
    """Split ``key=value``. The value is read as JSON, or kept as a string if it is not JSON."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise click.BadParameter(f"{text!r} is not of the form key=value")
    try:
        return key, json.loads(value)
    except (ValueError, RecursionError):  # nested too deeply
        return key, value


def output_options(command: F) -> F:
    """Add the options for how a followed job is shown: ``as_json``, ``final``, ``reasoning``."""
    options: list[Callable[[F], F]] = [
        click.option(
            "--json", "as_json", is_flag=True, help="Print the events of the log as JSON lines."
        ),
        click.option("--final", is_flag=True, help="Print the text once, when it is complete."),
        click.option(
            "--reasoning",
            is_flag=True,
            help="Show the model's reasoning, dim; a pipe never gets it.",
        ),
    ]
    return _add(options, command)


def job_options(*, short_option: bool) -> Callable[[F], F]:
    """Return a decorator that adds the options for fields of the job; ``-o`` is optional."""
    names = ("-o", "--option") if short_option else ("--option",)
    options: list[Callable[[F], F]] = [
        click.option("--model", help="Model of the provider.", shell_complete=models),
        click.option(
            "--provider",
            help="Provider that answers, by default WORKER_DEFAULT_PROVIDER.",
            shell_complete=providers,
        ),
        click.option("--system", metavar="TEXT", help="A system message before the prompt."),
        click.option(
            *names,
            "options",
            multiple=True,
            metavar="KEY=VALUE",
            callback=_key_values,
            help="Option for the provider, with a JSON value: temperature=0.2. Repeatable.",
        ),
        click.option(
            "--deadline", "deadline_s", type=_SECONDS, help="Maximum seconds for the whole job."
        ),
        click.option(
            "--first-chunk-timeout",
            "first_chunk_timeout_s",
            type=_SECONDS,
            help="Maximum seconds until the first text.",
        ),
        click.option(
            "--idle-timeout",
            "idle_timeout_s",
            type=_SECONDS,
            help="Maximum seconds between two pieces of text.",
        ),
        click.option(
            "--on-interrupt",
            type=click.Choice(["restart", "fail", "keep"]),
            help="What happens if the upstream breaks off after the first text.",
        ),
        click.option("--proxy", help="URL of a proxy that the worker allows."),
        click.option("--tenant", help="Tenant that owns the job."),
        click.option(
            "--metadata",
            multiple=True,
            metavar="KEY=VALUE",
            callback=_key_values,
            help="Stored with the job, not interpreted. Repeatable.",
        ),
    ]

    return functools.partial(_add, options)


def _add(options: Sequence[Callable[[F], F]], command: F) -> F:
    for option in reversed(options):  # click shows the option that was added last first
        command = option(command)
    return command


def build_job(base: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the job object ``base`` with the ``given`` options, which override its fields."""
    set_options = {name: value for name, value in given.items() if value is not None}
    system = set_options.pop("system", None)
    job = {**base, **set_options}
    for name in ("options", "metadata"):
        if name in set_options and isinstance(base.get(name), Mapping):
            job[name] = {**base[name], **set_options[name]}
    messages = job.get("messages", [])
    if system is not None and isinstance(messages, list):
        job["messages"] = [{"role": "system", "content": system}, *messages]
    return job


def from_prompt(prompt: str) -> dict[str, Any]:
    """Return a job object with ``prompt`` as its only message. Raises ``click.UsageError``."""
    if not prompt.strip():
        raise click.UsageError("The prompt is empty.")
    if any("\ud800" <= char <= "\udfff" for char in prompt):  # how Python represents such bytes
        raise click.UsageError("The prompt holds bytes that are not UTF-8 text.")
    return {"messages": [{"role": "user", "content": prompt}]}
