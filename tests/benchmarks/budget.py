"""Where the microseconds of a chunk go: ``python -m tests.benchmarks.budget`` prints the table.

py-spy profiles a worker under the load of the first target, 1,000 streams x 10 chunks/s, from the
first job to the last. The cost of a part is its share of the samples times the CPU a chunk of a run
without the profiler. So the parts add up, starts and ends of jobs included.
"""

import argparse
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from berlin_worker.embedded.redis_server import find_server
from tests.benchmarks import envs
from tests.benchmarks.fleet import CONTENDERS, ENVS, ROOT
from tests.benchmarks.marks import between
from tests.benchmarks.processes import Bench
from tests.benchmarks.run import Run
from tests.benchmarks.scenarios import scenarios

_SAMPLES_A_SECOND: Final = 200
_CONTENDERS: Final = ("ours", "floor")


@dataclass(frozen=True, slots=True)
class Part:
    """A row; a sample belongs to it if one of its frames contains one of the words ``frames``."""

    name: str
    what: str
    frames: tuple[str, ...]


PARTS: Final = (
    Part(
        "event loop",
        "uvloop: system calls on the sockets of the upstream, polling, switching tasks",
        ("LoopThread._run", "Runner.run (asyncio", "run (uvloop"),
    ),
    Part(
        "read",
        "aiohttp: HTTP parser, StreamReader",
        ("data_received (aiohttp", "StreamReader", "Account.stream", "deltas (shared"),
    ),
    Part("parse", "lines, JSON to text, limits", ("ReplyDecoder", "loads (json")),
    Part("encode", "the event's bytes", ("JobLog.chunk", "chunk (shared")),
    Part(
        "append",
        "what has gathered packed into one call and sent, its reply settled; the floor's PUBLISH",
        ("Journal.run", "publish (floor", "stream (floor", "Redis.data_received"),
    ),
    Part("attempt", "watchdog, back-pressure, the loop over deltas", ("Attempt._read",)),
    Part(
        "jobs",
        "claim, request upstream, first and last event, acknowledgement",
        ("Job.", "SharedScriptConnection", "ClientSession", "main (floor"),
    ),
    Part("leases", "their renewal, and who else holds one", ("Leases.",)),
    Part("Celery", "its main thread: messages, acknowledgements, timers", ("main (celery",)),
)
_WAITING: Final = ("_epoll.poll (kombu",)
"""Innermost frames of threads that wait, though py-spy may take them for busy."""
REST: Final = Part("rest", "what is none of these", ())


def part_of(stack: str) -> Part:
    """Return the part of the innermost frame that has one; ``;`` splits frames, outermost first."""
    for frame in reversed(stack.split(";")):
        for part in PARTS:
            if any(word in frame for word in part.frames):
                return part
    return REST


def shares(samples: Iterable[str]) -> dict[str, float]:
    """Return the share of each part in py-spy's raw samples (``stack count``, one a line)."""
    counted: Counter[str] = Counter()
    for line in samples:
        stack, _, count = line.rpartition(" ")
        if not any(stack.rpartition(";")[2].startswith(word) for word in _WAITING):
            counted[part_of(stack).name] += int(count)
    total = counted.total()
    return {name: count / total for name, count in counted.items()}


def table(ours: dict[str, Any], floor: dict[str, Any]) -> str:
    """Return both runs side by side; each has ``shares`` and the µs a chunk of worker and Redis."""
    rows = ["| part | µs a chunk | the floor's | what it is |", "| --- | --- | --- | --- |"]
    costs = [_costs(run) for run in (ours, floor)]
    parts = sorted((*PARTS, REST), key=lambda part: -costs[0].get(part.name, 0.0))
    for part in parts:
        if part.name in costs[0]:
            cells = [_us(cost.get(part.name)) for cost in costs]
            rows.append(f"| {part.name} | {' | '.join(cells)} | {part.what} |")
    total = [_us(run["cpu_us_a_chunk"]) for run in (ours, floor)]
    rows.append(f"| **worker** | {' | '.join(total)} | CPU of the process, user and system |")
    beside = [_us(run["redis_us_a_chunk"]) for run in (ours, floor)]
    rows.append(f"| Redis | {' | '.join(beside)} | ours: log, channel and record; else PUBLISH |")
    return "\n".join(rows)


def _costs(run: dict[str, Any]) -> dict[str, float]:
    return {name: share * run["cpu_us_a_chunk"] for name, share in run["shares"].items()}


def _us(cost: float | None) -> str:
    return "—" if cost is None else f"{cost:.1f}"


class _Watched(Run):
    """A run whose first worker is profiled from the first job to the last."""

    samples: Path

    def _streams(self) -> dict[str, Any]:
        with _spying(self._workers[0].pid, self.samples):
            return super()._streams()


@contextmanager
def _spying(pid: int, samples: Path) -> Iterator[None]:
    spy = subprocess.Popen(
        [
            *(str(ENVS / "profile" / "bin" / "py-spy"), "record", "--threads"),
            *("--rate", str(_SAMPLES_A_SECOND), "--format", "raw"),
            *("--duration", "600", "--output", str(samples), "--pid", str(pid)),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        spy.send_signal(2)  # as Control-C: it writes what it has
        spy.wait()


def _measure(bench: Bench, name: str) -> dict[str, Any]:
    (scenario,) = [each for each in scenarios("full") if each.name == "stream"]
    out = ROOT / ".bench"
    log, samples = out / f"{name}.log", out / f"{name}.samples"
    with Run(bench, CONTENDERS[name], scenario, log) as run:
        figures = run.figures()
    with _Watched(bench, CONTENDERS[name], scenario, log) as watched:
        watched.samples = samples
        watched.figures()
    cpu_us, busy = figures["cpu_us_a_chunk"], figures["busy"]
    return {
        "cpu_us_a_chunk": cpu_us,
        "redis_us_a_chunk": cpu_us * busy["redis"] / busy["worker"],
        "shares": shares(samples.read_text().splitlines()),
    }


def main() -> int:
    """Measure and print the table; ``--publish`` writes it into tests/README.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--publish", action="store_true", help="write the table into tests/README.md"
    )
    options = parser.parse_args()
    binary = find_server()
    if binary is None:
        print("no redis-server and no valkey-server found", file=sys.stderr)
        return 1
    envs.install("profile")
    begun = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    load = os.getloadavg()[0]
    with Bench.started(binary) as bench:
        ours, floor = (_measure(bench, name) for name in _CONTENDERS)
    text = f"{table(ours, floor)}\n\n{begun}, load average before {load:.2f}."
    print(text)
    if options.publish:
        readme = ROOT / "tests/README.md"
        readme.write_text(between(readme.read_text(), "budget", text))
    return 0


if __name__ == "__main__":
    sys.exit(main())
