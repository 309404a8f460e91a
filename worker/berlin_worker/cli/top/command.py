"""`berlin top`: its options."""

import click

from berlin_worker.cli.numbers import Seconds


@click.command()
@click.option(
    "--once",
    is_flag=True,
    help="Show it once and exit (the default without a terminal).",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines.")
@click.option(
    "--interval",
    "interval_s",
    type=Seconds(at_least=0.2),
    default=2.0,
    show_default=True,
    help="Seconds between two readings; workers report every 2 s.",
)
def top(*, once: bool, as_json: bool, interval_s: float) -> None:
    """Watch the fleet: workers, queue, errors, logins.

    A worker that dies or hangs disappears within WORKER_LEASE_S. Rates and means cover the last
    10 s, counts start with each worker. q or Ctrl-C quits.

    \b
      berlin top
      berlin top --once --json | jq '.workers[] | {host, pid, in_flight}'
      berlin top --json | jq .waiting

    \b
    With --json (version 1; later releases only add fields; null is unknown):
      ts                              Unix time by the clock of Redis
      waiting, dead_letters           jobs in the queue; dead letters
      in_flight, capacity, draining   running jobs; their maximum; workers that shut down
      chunks, chunks_per_s, jobs_per_s, first_chunk_s, queue_wait_s
      completed, cancelled, failed    jobs by their end
      errors                          failed jobs by error code
      retries, logins, logins_failed
      tokens                          by provider: issued_ts, age_s
      tokens_per_min                  by model: input and output tokens a minute
      topology                        kind (single, sentinel, cluster), primaries, replicas,
                                      sentinels, and away: host:port of servers that are away
      models                          by provider: its default, and those that have answered
      unread                          only if a node of a cluster is away: which of workers and
                                      dead_letters it has
      unreadable                      workers of a version that this `berlin` cannot read
      workers                         a list: worker, host, pid, version, up_s, loop_lag_s, and
                                      the fields above that describe one worker
    """
    from berlin_worker.cli.top import run as work

    work.run(once=once, as_json=as_json, interval_s=interval_s)
