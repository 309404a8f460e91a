"""`berlin worker`: its options."""

import click

from berlin_worker.cli.numbers import COUNT


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("-c", "--concurrency", type=COUNT, help="Maximum number of streams in flight.")
@click.argument("celery_args", nargs=-1, type=click.UNPROCESSED)
def worker(concurrency: int | None, celery_args: tuple[str, ...]) -> None:
    """Start a worker.

    Checks settings, Redis and broker, then becomes `celery -A berlin_worker worker`. Further
    options are passed to Celery (`celery -A berlin_worker worker --help` lists them).

    \b
      berlin worker
      berlin worker -c 500 --loglevel=warning --without-gossip
      WORKER_PROVIDERS=echo berlin worker

    After SIGTERM or Ctrl-C running jobs may finish within WORKER_DRAIN_TIMEOUT_S seconds; other
    workers take the rest. After SIGHUP the worker does so and starts again.
    """
    from berlin_worker.cli import worker as work

    work.run(concurrency, celery_args)
