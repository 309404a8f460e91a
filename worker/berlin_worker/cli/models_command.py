"""`berlin models`: its options."""

import click

from berlin_worker.cli.complete import providers


@click.command()
@click.option(
    "--provider",
    help="Provider to ask. [default: WORKER_DEFAULT_PROVIDER]",
    shell_complete=providers,
)
def models(provider: str | None) -> None:
    """List the models that an upstream offers.

    The provider asks its upstream, with the settings of a worker. Redis is not needed.

    \b
      berlin models --provider openai
    """
    from berlin_worker.cli.models import run

    raise SystemExit(run(provider))
