"""``python -m tests.benchmarks.cluster``: one Redis beside a Redis Cluster of three primaries.

The load is the same on both, in turns: a worker with paced streams, a reader that follows all of
them, the queue on a Redis of its own. Measured is the CPU of the worker and of each server for a
chunk, while all streams are in flight. No node has a replica.

If the busiest of three primaries spends half of the CPU of one Redis for a chunk, the three carry
twice the load.
"""

import argparse
import contextlib
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import redis
from celery import Celery

from berlin_schemas import names
from berlin_worker.embedded.redis_server import RedisProcess, find_server
from berlin_worker.embedded.topology import Cluster
from berlin_worker.storage import connections
from tests.benchmarks import measure
from tests.benchmarks.fleet import CONTENDERS, HERE, ROOT, environ
from tests.benchmarks.processes import Bench, Failed, Output, process
from tests.benchmarks.upstream import prompt

_EVERY_MS: Final = 100
_PATIENCE_S: Final = 120.0
_LOG: Final = ROOT / ".bench" / "cluster.log"


class Servers(NamedTuple):
    """An event store: its URL, and its servers."""

    url: str
    nodes: Sequence[RedisProcess]


class Cost(NamedTuple):
    """CPU of a chunk, µs: of the worker, and of each node for a chunk of any of them."""

    worker_us: float
    node_us: tuple[float, ...]
    events_a_read: float
    """How many events a server reads at once: the size of a batch."""

    @property
    def servers_us(self) -> float:
        """Of all nodes together."""
        return sum(self.node_us)


@contextlib.contextmanager
def servers(kind: str, binary: Path) -> Iterator[Servers]:
    """Start the servers of a kind, ``single`` or ``cluster``."""
    if kind == "single":
        with RedisProcess(binary) as server:
            yield Servers(server.url, [server])
    else:
        with Cluster(binary, replicas=False) as cluster:
            yield Servers(cluster.url, cluster.servers)


def cost(bench: Bench, store: Servers, *, streams: int, window_s: float) -> Cost:
    """Return the cost of a chunk with this number of streams; raises :class:`Failed`."""
    chunks = round((window_s + 8.0) * 1000 / _EVERY_MS)
    ours = CONTENDERS["ours"]
    env = environ(ours, redis_url=store.url, berlin_url=bench.berlin_url, streams=streams)
    env["CELERY_BROKER_URL"] = bench.server.url
    app = Celery(broker=bench.server.url)
    client = connections.blocking(store.url, timeout_s=10)
    pids = [server.pid for server in store.nodes if server.pid is not None]
    reader = [sys.executable, "-m", "tests.benchmarks.reader", str(streams)]
    with (
        contextlib.closing(client),
        _LOG.open("a") as log,
        process(ours.command(streams), cwd=HERE, env=env, log=log) as worker,
        process(reader, cwd=ROOT, env=env) as reading,
    ):
        assert reading.stdout is not None
        output = Output(reading.stdout)
        output.wait_for("ready")
        for number in range(streams):
            job = {"messages": [{"role": "user", "content": prompt(chunks, _EVERY_MS)}]}
            app.send_task("worker.generate", [job], queue="prompts", task_id=f"j{number}")
        give_up = time.monotonic() + _PATIENCE_S
        while any(not _streams(client, number) for number in range(streams)):
            if time.monotonic() > give_up:
                raise Failed(f"the streams did not begin, see {_LOG}")
            time.sleep(0.2)
        used = _used(worker.pid, pids)
        sent, reads = _counted(store)
        time.sleep(window_s)
        used = [after - before for after, before in zip(_used(worker.pid, pids), used, strict=True)]
        sent, reads = (
            after - before for after, before in zip(_counted(store), (sent, reads), strict=True)
        )
        read: dict[str, Any] = output.wait_for("reader", _PATIENCE_S)
    if read["unsound"] or read["chunks"] != streams * chunks:
        raise Failed(f"the reader has missed events: {read}")
    worker_us, *node_us = (seconds / sent * 1e6 for seconds in used)
    return Cost(worker_us, tuple(node_us), sent / reads)


def _streams(client: redis.Redis, number: int) -> bool:
    found: Any = client.xlen(names.log_key(f"j{number}"))
    return bool(found > 1)


def _used(worker: int, nodes: Sequence[int]) -> list[float]:
    return [measure.cpu_s(measure.tree(worker)), *(measure.cpu_s([node]) for node in nodes)]


def _counted(store: Servers) -> tuple[int, int]:
    """Return how many events all nodes have appended, and how often they have read a socket."""
    events = reads = 0
    for server in store.nodes:
        with redis.Redis.from_url(server.url) as client:
            commands: Any = client.info("commandstats")
            stats: Any = client.info("stats")
        events += int(commands.get("cmdstat_xadd", {}).get("calls", 0))
        reads += int(stats["total_reads_processed"])
    return events, reads


def table(single: Sequence[Cost], cluster: Sequence[Cost]) -> str:
    """Return medians as Markdown; a ratio is the median of those of each round (pure)."""
    rounds = list(zip(single, cluster, strict=True))
    three = _median(cluster)
    worker = [(one.worker_us, three.worker_us) for one, three in rounds]
    servers = [(one.servers_us, three.servers_us) for one, three in rounds]
    busiest = [(one.servers_us, max(three.node_us)) for one, three in rounds]
    carried = statistics.median(one / most for one, most in busiest)
    rows = [
        ("CPU a chunk, µs", "one Redis", "three primaries", "ratio", "to reach"),
        ("---", "---", "---", "---", "---"),
        _row("worker", worker, "<= 1.4"),
        _row("all servers", servers, "<= 1.5"),
        _row("the busiest server", busiest, ""),
        ("events that the servers carry", "1", f"{carried:.2f}", "", ">= 2"),
        (
            "events that a server reads at once",
            *(
                f"{statistics.median(c.events_a_read for c in costs):.1f}"
                for costs in (single, cluster)
            ),
            *("", ""),
        ),
        (
            *("share of each server", "100 %"),
            ", ".join(f"{us / three.servers_us:.0%}" for us in three.node_us),
            *("", ""),
        ),
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(what: str, rounds: Sequence[tuple[float, float]], target: str) -> tuple[str, ...]:
    one, three = (statistics.median(column) for column in zip(*rounds, strict=True))
    ratio = statistics.median(three / one for one, three in rounds)
    return (what, f"{one:.1f}", f"{three:.1f}", f"{ratio:.2f}", target)


def _median(costs: Sequence[Cost]) -> Cost:
    return Cost(
        statistics.median(each.worker_us for each in costs),
        tuple(map(statistics.median, zip(*(each.node_us for each in costs), strict=True))),
        statistics.median(each.events_a_read for each in costs),
    )


def main() -> int:
    """Measure in turns; print a line for each run, and the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.cluster", description=__doc__)
    parser.add_argument("--streams", type=int, default=300)
    parser.add_argument("--window-s", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    binary = find_server()
    if binary is None:
        print("no redis-server and no valkey-server found", file=sys.stderr)
        return 1
    _LOG.parent.mkdir(exist_ok=True)
    found: dict[str, list[Cost]] = {"single": [], "cluster": []}
    for _ in range(options.rounds):
        for kind, costs in found.items():
            with Bench.started(binary) as bench, servers(kind, binary) as store:
                costs.append(cost(bench, store, streams=options.streams, window_s=options.window_s))
            print(kind, costs[-1], file=sys.stderr, flush=True)
    print(table(**found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
