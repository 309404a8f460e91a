"""Completion of values by TAB: job IDs, providers, models. Light, quick and silent."""

import os
from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_DEFAULT_MODEL: Final = "gpt-3.5-turbo"


def job_ids(
    _ctx: click.Context, _param: click.Parameter, incomplete: str
) -> "list[CompletionItem]":
    """Complete a job ID with the newest jobs, or with none if Redis does not answer at once."""
    from click.shell_completion import CompletionItem

    from berlin_worker.cli.recent_jobs import recent_jobs

    recent = recent_jobs(os.environ)
    return [CompletionItem(job_id) for job_id in recent if job_id.startswith(incomplete)]


def providers(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Complete a provider with the built-in and the installed ones."""
    from importlib.metadata import entry_points

    names = sorted({entry.name for entry in entry_points(group="berlin_worker.providers")})
    return [name for name in names if name.startswith(incomplete)]


def models(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Complete a model with the default and the models in settings."""
    environ = os.environ
    named = environ.get("WORKER_METRICS_MODELS", "").split(",")
    listed = [environ.get("WORKER_DEFAULT_MODEL", ""), *named, _DEFAULT_MODEL]
    names = dict.fromkeys(filter(None, (name.strip() for name in listed)))
    return [name for name in names if name.startswith(incomplete)]
