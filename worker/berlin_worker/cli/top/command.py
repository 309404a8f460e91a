"""`berlin top`: its options."""

import click


@click.command()
@click.option(
    "--once",
    is_flag=True,
    help="Show it once, as without a terminal.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option(
    "--interval",
    "interval_s",
    type=click.FloatRange(min=0.2),
    default=2.0,
    show_default=True,
    help="Seconds between two looks; workers tell of themselves every two.",
)
def top(*, once: bool, as_json: bool, interval_s: float) -> None:
    """Watch the fleet: workers, queue, errors, logins.

    A worker that dies or hangs disappears within WORKER_LEASE_S. Rates and means are of the last
    ten seconds, counts since the start of each worker. q or Ctrl-C leaves.

    \b
      berlin top
      berlin top --once --json | jq '.workers[] | {host, pid, in_flight}'
      berlin top --json | jq .waiting

    \b
    With --json, version 1; fields are only ever added, null is what is not known:
      ts                              Unix time, of Redis
      waiting, parked, dead_letters   jobs on the queue; kept back; that could not be run
      in_flight, capacity, draining   jobs that run; that may; workers that shut down
      chunks, chunks_per_s, jobs_per_s, first_chunk_s, queue_wait_s
      completed, cancelled, failed    jobs by their end; errors has the failed ones by code
      retries, logins, logins_failed
      tokens                          by provider: issued_ts, age_s
      unreadable                      workers of a version that this one cannot read
      workers                         a list: worker, host, pid, version, up_s, loop_lag_s, and
                                      of the above what there is of one worker
    """
    from berlin_worker.cli.top import run as work

    work.run(once=once, as_json=as_json, interval_s=interval_s)
