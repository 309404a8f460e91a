"""Targets that options of ``celery worker`` name: files, directories, users, modules.

Celery finds out late that one is missing: by a traceback, or after ``--detach`` has returned 0.
"""

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from celery.platforms import parse_gid, parse_uid
from celery.utils.imports import cwd_in_path
from celery.utils.nodenames import node_format

from berlin_worker.broker.file_targets import file_refusal, shown

_FILES: Final[Mapping[str, str]] = {
    "logfile": "--logfile",
    "pidfile": "--pidfile",
    "statedb": "--statedb",
}
_HIGHEST_UMASK: Final = 0o777


def target_refusal(options: Mapping[str, Any]) -> str | None:
    """Return one line on the first option that names something missing or forbidden, or None.

    ``options`` has the names and values of Celery's worker command.
    """
    for name, written in _FILES.items():
        if path := options.get(name):
            try:
                expanded = node_format(str(path), options.get("hostname") or "")
            except ValueError:
                return f"{written}: {shown(path)} has an unknown %: write %n, %h, %d, %I or %%"
            if message := file_refusal(name, Path(expanded)):
                return f"{written}: {message}"
    return (
        _executable_refusal(options.get("executable"))
        or _umask_refusal(options.get("umask"))
        or _user_refusal(options)
        or _module_refusal(options.get("include") or ())
    )


def _executable_refusal(path: object) -> str | None:
    if not path or (Path(str(path)).is_file() and os.access(str(path), os.X_OK)):
        return None
    return f"--executable: {shown(path)} cannot be run: name a Python interpreter"


def _umask_refusal(umask: object) -> str | None:
    if umask is None:
        return None
    try:
        # As Celery reads it: octal if it begins with 0.
        value = (
            umask if isinstance(umask, int) else int(str(umask), 8 if str(umask)[:1] == "0" else 10)
        )
    except ValueError:
        value = -1
    if 0 <= value <= _HIGHEST_UMASK:
        return None
    return f"--umask: {shown(umask)} is no mode: write it in octal, for example 022"


def _user_refusal(options: Mapping[str, Any]) -> str | None:
    for name, parse, current in (
        ("uid", parse_uid, os.geteuid()),
        ("gid", parse_gid, os.getegid()),
    ):
        wanted = options.get(name)
        if not wanted:
            continue
        if options.get("detach"):
            # Celery would drop the privileges twice, and the second time has none.
            return f"--{name} cannot be used with --detach: start the command as that user"
        try:
            number = parse(wanted)
        except (KeyError, OverflowError, ValueError):
            return f"--{name}: {shown(wanted)} does not exist on this machine"
        if os.geteuid() and number != current:
            return f"--{name}: only root can change it: start the command as that user"
    return None


def _module_refusal(modules: Any) -> str | None:
    for module in [modules] if isinstance(modules, str) else modules:
        try:
            with cwd_in_path():
                found = importlib.util.find_spec(module) is not None
        except (ImportError, ValueError):
            found = False
        if not found:
            return f"--include: the module {shown(module)} does not exist: install it"
    return None
