"""`berlin worker`: its options."""

import click


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("-c", "--concurrency", type=click.IntRange(min=1), help="Streams in flight at most.")
@click.argument("celery_args", nargs=-1, type=click.UNPROCESSED)
def worker(concurrency: int | None, celery_args: tuple[str, ...]) -> None:
    """Start a worker.

    Looks whether settings, Redis and broker are there, then becomes
    `celery -A berlin_worker worker`; any further options are Celery's
    (`celery -A berlin_worker worker --help` lists them).

    \b
      berlin worker
      berlin worker -c 500 --loglevel=warning --without-gossip
      WORKER_PROVIDERS=echo berlin worker

    SIGTERM (or Ctrl-C) lets the running jobs end, for WORKER_DRAIN_TIMEOUT_S seconds at most; what
    is left then goes to another worker. SIGHUP does the same, and the worker begins anew.
    """
    from berlin_worker.cli import worker as work

    work.run(concurrency, celery_args)
