"""CPU and memory of a process and all its children, from ``/proc``. Linux only."""

import contextlib
import os
import resource
from collections.abc import Iterable, Iterator
from pathlib import Path

_PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")


def _stat(pid: int) -> list[str]:
    """Return the fields of ``/proc/<pid>/stat`` from the state on (``man 5 proc``: field 3)."""
    # The second field is the name, in parentheses, and may hold anything.
    return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()


def tree(root: int) -> list[int]:
    """Return the process and all its descendants that are alive."""
    children: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it has just ended
                children.setdefault(int(_stat(int(entry.name))[1]), []).append(int(entry.name))

    def below(pid: int) -> Iterator[int]:
        yield pid
        for child in children.get(pid, ()):
            yield from below(child)

    return list(below(root))


def cpu_s(pids: Iterable[int]) -> float:
    """Return user and system time of the processes and of their ended children."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            ticks += sum(map(int, _stat(pid)[11:15]))
    return ticks / _TICKS


def unique_bytes(pids: Iterable[int]) -> int:
    """Return the unique set size: the memory that would be free again if these processes ended."""
    kilobytes = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in (_PROC / str(pid) / "smaps_rollup").read_text().splitlines():
                if line.startswith(("Private_Clean:", "Private_Dirty:", "Private_Hugetlb:")):
                    kilobytes += int(line.split()[1])
    return kilobytes * 1024


def tcp_connections(pid: int, to_port: int | None = None) -> int:
    """Return the established TCP connections of a process, all of them or those to one port."""
    held = set()
    for entry in (_PROC / str(pid) / "fd").iterdir():
        with contextlib.suppress(OSError):  # it has just been closed
            held.add(str(entry.readlink()))
    # man 5 proc, /proc/net/tcp: the third field is the other end, <address>:<port> in hexadecimal,
    # the fourth the state, 01 established; the tenth the inode
    rows = (row.split() for row in (_PROC / "net/tcp").read_text().splitlines()[1:])
    return sum(
        row[3] == "01"
        and f"socket:[{row[9]}]" in held
        and to_port in {None, int(row[2].rpartition(":")[2], 16)}
        for row in rows
    )


def machine_busy_s() -> float:
    """Return the CPU time of the whole machine since it started: all that is not idle."""
    fields = (_PROC / "stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
    return (user + nice + system + irq + softirq + steal) / _TICKS


def raise_open_files() -> None:
    """Take as many open files as the system gives, for this process and its children."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
