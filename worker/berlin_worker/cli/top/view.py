"""The fleet on a terminal."""

import time
from collections.abc import Callable, Sequence
from typing import Final

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from berlin_worker.cli.output import age, printable
from berlin_worker.storage.fleet import Fleet, TopologyRow, WorkerRow

_UNKNOWN: Final = "-"
_MILLI_S: Final = 0.0995
"""Shorter times are shown in milliseconds."""
_FULL: Final = 0.9
"""Share of its slots from which a worker is marked as nearly full."""
_LAGS_S: Final = 0.25
"""Lag of an event loop from which it is marked as overloaded."""
_MODELS: Final = 3
"""Maximum number of models whose tokens are shown."""
_OTHER_LINES: Final = 12
"""Maximum number of lines above and below the table of workers, without tokens and servers."""


class FleetView:
    """The fleet, cut to the height of the screen. ``problem`` is the reason for old figures."""

    def __init__(self, fleet: Fleet, problem: str | None = None) -> None:
        self._fleet = fleet
        self._problem = problem

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the parts (called by rich). ``options.height`` is set on a whole screen."""
        yield _summary(self._fleet)
        if self._problem is not None:
            yield Text(printable(self._problem), style="bold red")
        if self._fleet.unread:
            yield Text(printable(self._fleet.unread_text), style="bold red")
        rows = self._fleet.workers
        if "workers" in self._fleet.unread:
            return
        if not rows:
            yield Text("no worker is running: start one with `berlin worker`", style="yellow")
        else:
            other = _OTHER_LINES + bool(self._fleet.tokens_per_min) + _has_topology(self._fleet)
            most = len(rows) if options.height is None else max(1, options.height - other)
            yield Text()
            yield _fitting_table(rows[:most], console, options)
            if len(rows) > most:
                yield Text(f"and {len(rows) - most} more", style="dim")
        if self._fleet.unreadable:
            text = (
                f"{self._fleet.unreadable} more workers of a version that this `berlin` cannot read"
            )
            yield Text(text, style="yellow")


def _summary(fleet: Fleet) -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column(overflow="fold")
    draining = f", {fleet.draining} draining" if fleet.draining else ""
    workers = _UNKNOWN if "workers" in fleet.unread else len(fleet.workers)
    grid.add_row("workers", f"{workers}{draining}   {_clock(fleet.ts)}")
    grid.add_row("queue", _queue(fleet))
    grid.add_row(
        "jobs",
        f"{_of(fleet.in_flight, fleet.capacity)} in flight, {_number(fleet.jobs_per_s)}/s, "
        f"{fleet.completed:,} completed, {fleet.cancelled:,} cancelled, {fleet.failed:,} failed",
    )
    grid.add_row(
        "stream",
        f"{_number(fleet.chunks_per_s)} chunks/s, first chunk after {seconds(fleet.first_chunk_s)}",
    )
    if fleet.tokens_per_min:
        grid.add_row("tokens", _tokens(fleet))
    if fleet.errors or fleet.retries:
        parts = [f"{code} {count:,}" for code, count in fleet.errors.items()]
        parts.append(f"retries {fleet.retries:,}")
        grid.add_row("errors", Text(printable(", ".join(parts)), style="red"))
    grid.add_row("login", _login(fleet))
    if fleet.topology is not None and _has_topology(fleet):
        grid.add_row("redis", _topology(fleet.topology))
    return grid


def _queue(fleet: Fleet) -> Text:
    waiting = _UNKNOWN if fleet.waiting is None else f"{fleet.waiting:,}"
    text = f"{waiting} waiting, recently for {seconds(fleet.queue_wait_s)}"
    if fleet.dead_letters:
        text += f", {fleet.dead_letters:,} dead letters (`berlin dead list`)"
    return Text(text)


def _tokens(fleet: Fleet) -> Text:
    shown = list(fleet.tokens_per_min.items())[:_MODELS]
    parts = [
        f"{model}: {_number(rate['input'])} in, {_number(rate['output'])} out a minute"
        for model, rate in shown
    ]
    if left := len(fleet.tokens_per_min) - len(shown):
        parts.append(f"and {left} more models")
    return Text(printable("; ".join(parts)))


def _login(fleet: Fleet) -> Text:
    parts = [
        f"{provider}: token is {age(token.age_s)} old" for provider, token in fleet.tokens.items()
    ] or ["no token yet"]
    parts.append(f"logins {fleet.logins:,}")
    if fleet.logins_failed:
        parts.append(f"{fleet.logins_failed:,} failed")
    return Text(printable(", ".join(parts)), style="red" if fleet.logins_failed else "")


def _has_topology(fleet: Fleet) -> bool:
    return fleet.topology is not None and fleet.topology.kind != "single"


def _topology(found: TopologyRow) -> Text:
    primaries = "1 primary" if found.primaries == 1 else f"{found.primaries} primaries"
    replicas = "1 replica" if found.replicas == 1 else f"{found.replicas} replicas"
    text = f"{found.kind} of {primaries} and {replicas}"
    if found.kind == "sentinel":
        text = f"{found.sentinels} Sentinels, {primaries} and {replicas}"
    if found.away:
        text += f", away: {', '.join(found.away)}"
    return Text(printable(text), style="red" if found.away else "")


def _fitting_table(rows: Sequence[WorkerRow], console: Console, options: ConsoleOptions) -> Table:
    """Return the table without the least important columns that do not fit."""
    for left_out in range(len(_LEFT_OUT_FIRST) + 1):
        table = _table(rows, without=_LEFT_OUT_FIRST[:left_out])
        if Measurement.get(console, options.update(max_width=1000), table).maximum <= (
            options.max_width
        ):
            break
    return table


def _table(rows: Sequence[WorkerRow], without: Sequence[str]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    table.add_column("worker", no_wrap=True)
    shown = [name for name in _COLUMNS if name not in without]
    for name in shown:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        cells = (_COLUMNS[name](row) for name in shown)
        name = f"{row.host}:{row.pid}" + (" (draining)" if row.draining else "")
        table.add_row(Text(printable(name)), *cells, style="dim" if row.draining else "")
    return table


def _in_flight(row: WorkerRow) -> Text:
    busy = row.capacity is not None and row.in_flight >= _FULL * row.capacity
    return Text(_of(row.in_flight, row.capacity), style="yellow" if busy else "")


def _token(row: WorkerRow) -> str:
    youngest_s = min((token.age_s for token in row.tokens.values()), default=None)
    return _UNKNOWN if youngest_s is None else age(youngest_s)


def _lag(row: WorkerRow) -> Text:
    lags = row.loop_lag_s is not None and row.loop_lag_s >= _LAGS_S
    return Text(seconds(row.loop_lag_s), style="red" if lags else "")


_COLUMNS: Final[dict[str, Callable[[WorkerRow], Text | str]]] = {
    "up": lambda row: age(row.up_s),
    "in flight": _in_flight,
    "chunks/s": lambda row: _number(row.chunks_per_s),
    "first chunk": lambda row: seconds(row.first_chunk_s),
    "wait": lambda row: seconds(row.queue_wait_s),
    "completed": lambda row: f"{row.completed:,}",
    "failed": lambda row: Text(f"{row.failed:,}", style="red" if row.failed else ""),
    "retries": lambda row: f"{row.retries:,}",
    "logins": lambda row: f"{row.logins:,}",
    "token": _token,
    "lag": _lag,
}
_LEFT_OUT_FIRST: Final = ("logins", "retries", "wait", "token", "completed", "up", "lag", "failed")


def seconds(value: float | None) -> str:
    """Format a short time, in milliseconds or seconds; ``-`` for ``None``."""
    if value is None:
        return _UNKNOWN
    return f"{value * 1000:.0f} ms" if value < _MILLI_S else f"{value:.1f} s"


def _number(value: float) -> str:
    return f"{value:,.0f}" if round(value, 1) >= 10 or not value else f"{value:.1f}"  # noqa: PLR2004  # two digits


def _of(count: int, most: int | None) -> str:
    return f"{count:,}" if most is None else f"{count:,}/{most:,}"


def _clock(ts: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(ts))
