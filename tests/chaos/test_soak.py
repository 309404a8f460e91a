"""Many jobs over one worker: nothing grows, and nothing is left behind."""

import os
from dataclasses import dataclass
from pathlib import Path
from statistics import linear_regression
from urllib.parse import urlsplit

from berlin_schemas import names
from tests.benchmarks.measure import tcp_connections
from tests.support.chaos import size
from tests.support.checker import Figures
from tests.support.workers import wait_until

BATCHES = 15
WARM_UP = size(8, 3)  # at least 800 jobs: until then the allocator still grows
LOG_TTL_S = size(20, 120)  # longer than a batch, whose logs are checked at its end
MOST_KIB_PER_1000 = size(4096, 256)  # a short run is half warm-up: it finds large leaks


@dataclass(frozen=True)
class Footprint:
    """The resources of a worker after ``jobs`` jobs.

    ``files`` leaves out its connections to the upstream: the worker keeps those of one batch for
    the next, as many as were busy at once.
    """

    jobs: int
    memory_kib: float
    files: int
    threads: int

    @classmethod
    def of(cls, pid: int, jobs: int, upstream_url: str) -> "Footprint":
        process = Path("/proc", str(pid))
        resident = int((process / "statm").read_text().split()[1])
        return cls(
            jobs,
            resident * os.sysconf("SC_PAGE_SIZE") / 1024,
            len(list((process / "fd").iterdir()))
            - tcp_connections(pid, urlsplit(upstream_url).port),
            len(list((process / "task").iterdir())),
        )


def together(parts: list[Figures]) -> Figures:
    return Figures(
        jobs=sum(part.jobs for part in parts),
        attempts=sum(part.attempts for part in parts),
        resets=sum(part.resets for part in parts),
        worst_recovery_s=None,
        problems=tuple(problem for part in parts for problem in part.problems),
    )


def test_worker_that_runs_for_long_grows_in_nothing(make_site, report):
    """The test waits for each batch, so each footprint is that of an idle worker."""
    jobs = size(1_500, 20_000)
    batch = jobs // BATCHES
    taken: list[Footprint] = []
    judged: list[Figures] = []
    site = make_site(WORKER_LOG_TTL_S=str(LOG_TTL_S), WORKER_RETRY_BASE_S="0.05")
    with site.worker("-c", "50") as worker:
        for n in range(1, BATCHES + 1):
            with site.new_history() as site.history:
                for m in range(batch):
                    # One in ten fails at first: failures may leave something behind, too.
                    faults = "[[status:503*1]]" if m % 10 == 0 else ""
                    site.submit(None, faults, chunks=10, how="bare" if m % 2 else "client")
                judged.append(site.history.check(size(60, 300)))
            taken.append(Footprint.of(worker.process.pid, n * batch, site.upstream.url))
        wait_until(
            lambda: not any(site.redis.scan_iter("job:*", count=1000)),
            "no record and no log is left after its TTL",
            LOG_TTL_S + 60,
        )
        assert not site.redis.exists(*names.DUE_KEYS, "worker:dead")
        assert not site.broker.exists("prompts", "unacked:prompts")
    after = taken[WARM_UP:]
    slope = linear_regression([each.jobs for each in after], [each.memory_kib for each in after])
    kib_per_1000 = slope.slope * 1000
    note = (
        f"{taken[-1].memory_kib / 1024:.0f} MiB, {kib_per_1000:+.0f} KiB per 1,000 jobs after "
        f"{taken[WARM_UP - 1].jobs}; {after[-1].files} files, {after[-1].threads} threads"
    )
    print(note)  # noqa: T201  # pytest shows it
    report(f"soak: {batch * BATCHES} jobs over one worker", together(judged), note=note)
    assert kib_per_1000 < MOST_KIB_PER_1000, [round(each.memory_kib) for each in taken]
    # Connections to Redis come and go with load, by a few; a leak would go with the jobs.
    assert after[-1].files <= after[0].files + 8
    assert after[-1].threads <= after[0].threads + 2
