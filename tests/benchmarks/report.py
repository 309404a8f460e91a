"""The figures as Markdown: medians, spreads, ratios to ours, and targets. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tests.benchmarks.fleet import CONTENDERS
from tests.benchmarks.marks import between
from tests.benchmarks.scenarios import EVERYBODY, Scenario, scenarios
from tests.benchmarks.stats import Summary
from tests.benchmarks.targets import verdicts

Runs = Sequence[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Column:
    """A figure of a run: its path in the JSON, and how it is shown."""

    path: str
    title: str
    format: str
    scale: float = 1.0


_LAG = (
    Column("steady_lag_ms.p50", "lag p50, ms", "{:.1f}"),
    Column("steady_lag_ms.p99", "lag p99, ms", "{:.1f}"),
)
_BUSY = (
    Column("busy.upstream", "upstream busy", "{:.0%}"),
    Column("busy.redis", "Redis busy", "{:.0%}"),
)
_COLUMNS: dict[str, tuple[Column, ...]] = {
    "jobs": (Column("jobs_a_second", "jobs a second", "{:,.0f}"),),
    "idle": (
        Column("first_chunk_ms.p50", "enqueue to first chunk p50, ms", "{:.1f}"),
        Column("first_chunk_ms.p99", "p99, ms", "{:.1f}"),
    ),
    "flat": (
        Column("chunks_a_second", "chunks a second", "{:,.0f}"),
        Column("cpu_us_a_chunk", "CPU a chunk, µs", "{:.1f}"),
        *_BUSY,
    ),
    "workers": (
        Column("chunks_a_second", "chunks a second", "{:,.0f}"),
        Column("busy.worker", "workers busy", "{:.0%}"),
        *_BUSY,
        Column("busy.machine", "machine busy", "{:.0%}"),
    ),
    "reader": (
        Column("reader.cpu_us_a_chunk", "reader's CPU a chunk, µs", "{:.1f}"),
        Column("reader.connections", "connections", "{:.0f}"),
        Column("reader.lost", "lost", "{:.0f}"),
    ),
    "memory": (Column("idle_memory_bytes", "memory, MB", "{:.1f}", 1e-6),),
    "stream": (
        Column("cpu_us_a_chunk", "CPU a chunk, µs", "{:.1f}"),
        *_LAG,
        Column("memory_a_stream", "KB a stream", "{:,.0f}", 1e-3),
        *_BUSY,
    ),
    "flight": (
        Column("steady_cpu_us_a_chunk", "CPU a chunk, µs", "{:.1f}"),
        *_LAG,
        Column("memory_a_stream", "KB a stream", "{:,.0f}", 1e-3),
        *_BUSY,
    ),
}


def markdown(figures: dict[str, Any]) -> str:
    """Return all tables, the one of the targets first."""
    runs = with_memory(figures["runs"])
    parts = [targets(figures)]
    for scenario in scenarios(figures["size"]):
        of = [run for run in runs if run["scenario"] == scenario.name]
        if of:
            parts.append(f"**{scenario.title}**\n\n{table(scenario, of)}")
    return "\n\n".join(parts)


def targets(figures: dict[str, Any]) -> str:
    """Return machine and time of the measurement, and the table of targets."""
    own = figures["upstream_first_chunk_ms"]["p50"]
    rows = [
        _row([v.target, v.measured, {True: "yes", False: "no", None: "—"}[v.held]])
        for v in verdicts(with_memory(figures["runs"]), upstream_ms=own)
    ]
    rounds = "1 round" if figures["rounds"] == 1 else f"{figures['rounds']} rounds"
    about = (
        f"{figures['begun']}, {figures['machine']}, size `{figures['size']}`, {rounds}, load "
        f"average before {figures['load_average']:.2f}. The upstream's own time to a first chunk: "
        f"{own:.2f} ms."
    )
    return "\n".join([about, "", "| to reach | measured | held |", "| --- | --- | --- |", *rows])


_SECTION = """## How fast it is

`make bench` runs it beside a bare asyncio loop that promises nothing (the floor) and eight common
ways to build the same from a queue and a PUBLISH a chunk, in turns, on one upstream and one Redis.
Ours carries the log, the fence and the lease; none of the others does. All figures are in
[benchmarks/FIGURES.md](benchmarks/FIGURES.md).

![worker CPU a chunk, memory a stream, chunks a second](benchmarks/figures.svg)

"""


def filled(readme: str, figures: dict[str, Any]) -> str:
    """Return ``readme`` with the section on speed between its marks; raises ``ValueError``."""
    return between(readme, "benchmark", f"{_SECTION}{targets(figures)}")


def table(scenario: Scenario, runs: Runs) -> str:
    """Return a scenario, a row for each contender; first figures have spread and ratio to ours."""
    columns = _COLUMNS[scenario.name.split("-", maxsplit=1)[0]]
    first, *others = columns
    head = ["", first.title, "spread", "to ours", *(c.title for c in others), ""]
    ours = summary(runs, "ours", first.path)
    lines = [_row(head), _row(["---"] * len(head))]
    for name in EVERYBODY:
        of = [run for run in runs if run["contender"] == name]
        if not of:
            continue
        main = summary(runs, name, first.path)
        ratio = main.ratio(ours) if main and ours else None
        lines.append(
            _row(
                [
                    CONTENDERS[name].title + _fewer(scenario, of),
                    _shown(first, main),
                    f"± {main.spread:.0%}" if main else "",
                    f"{ratio:.2f}" if ratio is not None else "",
                    *(_shown(column, summary(runs, name, column.path)) for column in others),
                    _marks(of),
                ]
            )
        )
    return "\n".join(lines)


def summary(runs: Runs, contender: str, path: str) -> Summary | None:
    """Return the rounds of a contender; ``None`` if none has the figure."""
    found = [
        value
        for run in runs
        if run["contender"] == contender
        if (value := at(run, path)) is not None
    ]
    return Summary.of(found) if found else None


def at(run: dict[str, Any], path: str) -> float | None:
    """Return the figure at a dotted path."""
    value: Any = run
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def with_memory(runs: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the runs, with what each stream in flight adds to a worker that holds one."""
    runs = list(runs)
    idle = {
        run["contender"]: run["idle_memory_bytes"] for run in runs if "idle_memory_bytes" in run
    }
    return [
        run | {"memory_a_stream": (run["memory_bytes"] - idle[run["contender"]]) / run["jobs"]}
        if "memory_bytes" in run and run["contender"] in idle
        else run
        for run in runs
    ]


def _fewer(scenario: Scenario, runs: Runs) -> str:
    jobs = {run["jobs"] for run in runs if "jobs" in run}
    return f" ({jobs.pop():,} streams)" if len(jobs) == 1 and jobs != {scenario.jobs} else ""


def _marks(runs: Runs) -> str:
    if errors := [run["error"] for run in runs if "error" in run]:
        return f"failed: {errors[0]}"
    lost = sum(run.get("lost", 0) for run in runs)
    if lost:
        return f"**lost {lost:,} chunks**"
    return "" if all(run.get("sound") for run in runs) else "**out of order, or failed jobs**"


def _shown(column: Column, value: Summary | None) -> str:
    return column.format.format(value.median * column.scale) if value else "—"


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
