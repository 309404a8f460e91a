"""The fleet on a terminal."""

import time

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from worker.cli.output import printable
from worker.cli.top_fleet import Fleet, WorkerRow

_UNKNOWN = "-"
_MILLI_S = 0.0995
_FULL = 0.9
_LAGS_S = 0.25
"""An event loop that answers so late has too much to do."""


def view(fleet: Fleet, problem: str | None = None) -> RenderableType:
    """All of it; ``problem`` says why it is not what it is now."""
    parts: list[RenderableType] = [_summary(fleet)]
    if problem is not None:
        parts.append(Text(printable(problem), style="bold red"))
    if fleet.workers:
        parts += [Text(), _table(fleet)]
    else:
        parts.append(Text("no worker lives: start one with `berlin worker`", style="yellow"))
    if fleet.unreadable:
        told = f"{fleet.unreadable} more of a version that this one cannot read"
        parts.append(Text(told, style="yellow"))
    return Group(*parts)


def _summary(fleet: Fleet) -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column(overflow="fold")
    draining = f", {fleet.draining} draining" if fleet.draining else ""
    grid.add_row("workers", f"{len(fleet.workers)}{draining}   {_clock(fleet.ts)}")
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
    if fleet.errors or fleet.retries:
        told = [f"{code} {count:,}" for code, count in fleet.errors.items()]
        told.append(f"retries {fleet.retries:,}")
        grid.add_row("errors", Text(printable(", ".join(told)), style="red"))
    grid.add_row("login", _login(fleet))
    return grid


def _queue(fleet: Fleet) -> Text:
    waiting = _UNKNOWN if fleet.waiting is None else f"{fleet.waiting:,}"
    told = f"{waiting} waiting, for {seconds(fleet.queue_wait_s)} of late"
    if fleet.parked:
        told += f", {fleet.parked:,} parked: an event store is away"
    if fleet.dead_letters:
        told += f", {fleet.dead_letters:,} dead letters (`berlin dead list`)"
    return Text(told, style="yellow" if fleet.parked else "")


def _login(fleet: Fleet) -> Text:
    told = [
        f"{provider}: token is {ago(token.age_s)} old" for provider, token in fleet.tokens.items()
    ] or ["no token yet"]
    told.append(f"{fleet.logins:,} logins")
    if fleet.logins_failed:
        told.append(f"{fleet.logins_failed:,} failed")
    return Text(printable(", ".join(told)), style="red" if fleet.logins_failed else "")


def _table(fleet: Fleet) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    table.add_column("worker", no_wrap=True)
    for name in (
        "up", "in flight", "chunks/s", "first chunk", "wait", "completed", "failed", "retries",
        "logins", "token", "lag",
    ):  # fmt: skip
        table.add_column(name, justify="right", no_wrap=True)
    for row in fleet.workers:
        table.add_row(*_cells(row), style="dim" if row.draining else "")
    return table


def _cells(row: WorkerRow) -> tuple[Text | str, ...]:
    name = f"{row.host}:{row.pid}" + (" (draining)" if row.draining else "")
    busy = row.capacity is not None and row.in_flight >= _FULL * row.capacity
    lags = row.loop_lag_s is not None and row.loop_lag_s >= _LAGS_S
    token = min((token.age_s for token in row.tokens.values()), default=None)
    return (
        Text(printable(name)),
        ago(row.up_s),
        Text(_of(row.in_flight, row.capacity), style="yellow" if busy else ""),
        _number(row.chunks_per_s),
        seconds(row.first_chunk_s),
        seconds(row.queue_wait_s),
        f"{row.completed:,}",
        Text(f"{row.failed:,}", style="red" if row.failed else ""),
        f"{row.retries:,}",
        f"{row.logins:,}",
        _UNKNOWN if token is None else ago(token),
        Text(seconds(row.loop_lag_s), style="red" if lags else ""),
    )


def seconds(value: float | None) -> str:
    """A short time."""
    if value is None:
        return _UNKNOWN
    return f"{value * 1000:.0f} ms" if value < _MILLI_S else f"{value:.1f} s"


def ago(value: float) -> str:
    """A long time, in its largest unit."""
    for unit_s, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if value >= unit_s:
            return f"{value / unit_s:.1f} {unit}"
    return f"{value:.0f} s"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == 0 else f"{value:.1f}"  # noqa: PLR2004  # 2 digits


def _of(count: int, most: int | None) -> str:
    return f"{count:,}" if most is None else f"{count:,}/{most:,}"


def _clock(ts: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(ts))
