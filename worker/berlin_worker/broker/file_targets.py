"""Whether a worker can use the files that its options name.

Celery removes a PID file that it cannot read, whatever the file is, and ends by a traceback
when it cannot read the file of ``--statedb``.
"""

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from celery.worker import state
from kombu.clocks import LamportClock

_SUFFIXES: Final = ("", ".db", ".dat", ".dir", ".bak", ".pag")
"""Suffixes that the ``dbm`` modules append to the path of ``--statedb``."""
_LONGEST_PID: Final = 64
_PID: Final = re.compile(rb"\s*[0-9]{0,9}\s*")
"""The content of a PID file; a worker that was killed leaves an empty one, or a part of it."""


def file_refusal(option: str, path: Path) -> str | None:
    """Return why a worker cannot use the file for an option (for instance ``pidfile``), or None."""
    try:
        if "\0" in str(path):
            raise ValueError  # noqa: TRY301  # newer Pythons return False and do not raise it
        if path.is_dir():
            return f"{shown(path)} is a directory: name a file in it"
        target = Path(os.path.realpath(path))
        if not target.parent.is_dir():
            return f"the directory {shown(target.parent)} does not exist: create it"
        loop, dangling = target.is_symlink(), path.is_symlink() and not path.exists()
        if loop or (dangling and option == "pidfile"):
            return f"{shown(path)} is a link to nothing: remove it"
    except (OSError, ValueError):
        return f"{shown(path)} is no path of a file"
    if not os.access(path if path.exists() else target.parent, os.W_OK):
        return f"{shown(path)} cannot be written by this user: change its owner, or the path"
    if option == "pidfile":
        return _pid_refusal(path)
    return _state_refusal(path) if option == "statedb" else None


def shown(value: object) -> str:
    """Return ``value`` as one short printable word."""
    return f"{str(value)!a:.200}"


def _pid_refusal(path: Path) -> str | None:
    if not path.exists():
        return None
    if not path.is_file():
        return f"{shown(path)} is no regular file: name another"
    try:
        with path.open("rb") as file:
            content = file.read(_LONGEST_PID)
    except OSError:
        return f"{shown(path)} cannot be read by this user: change its owner, or the path"
    if _PID.fullmatch(content):
        return None
    return f"{shown(path)} holds no process ID: remove it, or name another file"


def _state_refusal(path: Path) -> str | None:
    parts = {suffix: Path(f"{path}{suffix}") for suffix in _SUFFIXES}
    found = {suffix: part for suffix, part in parts.items() if part.exists()}
    for part in found.values():
        if not part.is_file():
            return f"{shown(part)} is no regular file: name another"
    if found and not _readable(found):
        return f"{shown(path)} holds no state of a worker: remove it, or name another file"
    return None


def _readable(parts: Mapping[str, Path]) -> bool:
    """Return whether Celery can read what an earlier worker has saved; tries it on a copy."""
    with TemporaryDirectory() as directory:
        copy = Path(directory) / "state"
        try:
            for suffix, part in parts.items():
                shutil.copyfile(part, f"{copy}{suffix}")
            state.Persistent(state, str(copy), LamportClock()).close()
        except Exception:  # noqa: BLE001  # a damaged file raises whatever its bytes lead to
            return False
    return True
