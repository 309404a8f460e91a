"""The limit of open files: raised for the streams of a worker, or the worker takes fewer streams.

A worker without free files fails valid jobs, and cannot even connect to Redis. So the number of
slots follows the limit: at the start, and when ``pool_grow`` adds some.
"""

import resource
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from celery import signals
from celery.utils.log import get_logger
from celery.worker.control import Panel

if TYPE_CHECKING:
    from celery import Celery

logger = get_logger(__name__)

FILES_OF_PROCESS: Final = 128
"""Files of a worker beside its streams. Measured: 29 files, and up to 32 connections to the event
store under load. The rest is for probes of its HTTP port, for DNS and for exporters."""

SPARE_SHARE: Final = 10
"""One file more for every 10 streams: the last connection of a slot may still be closing."""

USUAL_LIMIT: Final = 65536
"""The soft limit to set even if the slots need less: it costs nothing."""


@dataclass(frozen=True, slots=True)
class Room:
    """The soft limit to set (``None``: leave it), and the slots that it allows."""

    soft_limit: int | None
    slots: int


def plan(slots: int, soft: int, hard: int, *, base: int, files: int) -> Room:
    """Return the soft limit to set and how many of ``slots`` it then allows, at least 1.

    ``base`` is what the process opens beside its streams, ``files`` what each stream opens.
    Limits are numbers of files; ``resource.RLIM_INFINITY`` means no limit.
    """
    infinite = resource.RLIM_INFINITY
    needed = base + slots * files + slots // SPARE_SHARE
    if soft == infinite:
        return Room(None, slots)
    wanted = max(needed, USUAL_LIMIT)
    allowed = wanted if hard == infinite else min(wanted, hard)
    limit = max(soft, allowed)
    if limit < needed:
        slots = max(1, (limit - base) * SPARE_SHARE // (files * SPARE_SHARE + 1))
    return Room(limit if limit > soft else None, slots)


class FileLimit:
    """The limit of open files of this process. With ``proxies`` a stream needs more files."""

    def __init__(self, *, proxies: int) -> None:
        # An idle connection serves the next stream only by the same proxy.
        self._files = 2 if proxies else 1

    def make_room(self, slots: int) -> int:
        """Raise the soft limit for ``slots`` streams; return how many of them it allows."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        room = plan(slots, soft, hard, base=FILES_OF_PROCESS, files=self._files)
        if room.soft_limit is not None:
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (room.soft_limit, hard))
            except (ValueError, OSError):  # macOS has a second, lower limit that it does not name
                room = plan(slots, soft, soft, base=FILES_OF_PROCESS, files=self._files)
        return room.slots

    def warning(self, slots: int, allowed: int) -> str:
        """Return the line for the log when ``allowed`` is less than ``slots``."""
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        needed = FILES_OF_PROCESS + slots * self._files + slots // SPARE_SHARE
        return (
            f"{allowed} streams at once in place of {slots}: the limit is {limit} open files, and "
            f"{slots} streams need {needed}; raise the hard limit (LimitNOFILE=, ulimit -Hn, "
            "ulimits: of the container)"
        )


def install(app: "Celery", limit: FileLimit) -> None:
    """Let the workers of ``app`` have no more slots than files."""
    reduced: list[str] = []

    def before_start(sender: Any, **_: Any) -> None:
        if sender.app is app:
            wanted, sender.concurrency = sender.concurrency, limit.make_room(sender.concurrency)
            if sender.concurrency < wanted:
                reduced.append(limit.warning(wanted, sender.concurrency))

    def when_log_is_set_up(**_: Any) -> None:
        while reduced:
            logger.warning(reduced.pop())

    signals.worker_init.connect(before_start, weak=False)
    signals.celeryd_after_setup.connect(when_log_is_set_up, weak=False)

    celerys_pool_grow = Panel.data["pool_grow"]

    def pool_grow(state: Any, n: int = 1, **arguments: Any) -> Any:
        """Grow the pool, as far as the files go."""
        if state.app is app and isinstance(n, int) and n > 0:
            slots = state.consumer.pool.num_processes
            allowed = limit.make_room(slots + n)
            if allowed < slots + n:
                warning = limit.warning(slots + n, max(allowed, slots))
                logger.warning(warning)
                celerys_pool_grow(state, n=max(0, allowed - slots), **arguments)
                return {"ok": warning}
        return celerys_pool_grow(state, n=n, **arguments)

    Panel.data["pool_grow"] = pool_grow
