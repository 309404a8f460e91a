"""SIGHUP: the worker stops as by SIGTERM, then its process runs its own command line again.

This replaces Celery's own handler, which cannot run ``python -m celery`` again, is missing if the
worker has a terminal, and restarts a worker after SIGTERM.
"""

import atexit
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, Final

from celery import platforms, signals
from celery.apps import worker as celery_worker
from celery.platforms import EX_OK
from celery.worker import state

_PRIVILEGES: Final = ("--uid", "--gid")


def command_line(
    original: Sequence[str], argument_count: int, script: str | None, *, is_root: bool
) -> list[str]:
    """Return the arguments, without the interpreter, that start this program again.

    ``original`` is ``sys.orig_argv``, of which the last ``argument_count`` are ``sys.argv``.
    ``script`` is the absolute path of the script, or None for ``-m`` and ``-c``: ``--workdir``
    may have left the directory that a relative path is relative to. Without root, ``--uid`` and
    ``--gid`` are left out: they were obeyed already, and cannot be obeyed again.
    """
    first = len(original) - argument_count
    interpreter, name, rest = original[1:first], original[first], list(original[first + 1 :])
    if not is_root:
        rest = _without_privileges(rest)
    return [*interpreter, script or name, *rest]


def _without_privileges(arguments: list[str]) -> list[str]:
    kept: list[str] = []
    skip_value = False
    for argument in arguments:
        if skip_value:
            skip_value = False
        elif argument in _PRIVILEGES:
            skip_value = True
        elif argument.partition("=")[0] not in _PRIVILEGES:
            kept.append(argument)
    return kept


def _has_terminal() -> bool:
    return sys.__stdout__ is not None and os.isatty(sys.__stdout__.fileno())


class Restart:
    """Whether this process runs its command line again when the worker has stopped."""

    def __init__(self) -> None:
        self._requested = False
        self._stopping = False
        self._had_terminal = False

    def install(self) -> None:
        """Handle SIGHUP; call it in the main thread, after Celery has installed its handlers."""
        self._stopping = False
        self._had_terminal = _has_terminal()
        signals.worker_shutting_down.connect(self._on_shutdown)
        platforms.signals["SIGHUP"] = self._on_sighup

    def _on_sighup(self, *_: Any) -> None:
        # A worker that is stopping goes on to stop; one that is restarting restarts once.
        if self._stopping:
            return
        # Without its terminal, a worker in the background would have no output: it stops.
        self._requested = not self._had_terminal or _has_terminal()
        how = "Restart" if self._requested else "The terminal is gone: warm shutdown"
        celery_worker.safe_say(f"worker: {how} (SIGHUP)", sys.__stdout__)
        signals.worker_shutting_down.send(sender=self, sig="SIGHUP", how="Warm", exitcode=EX_OK)
        state.should_stop = EX_OK

    def _on_shutdown(self, sig: str, **_: Any) -> None:
        self._stopping = True
        if sig != "SIGHUP":
            self._requested = False

    def run_again(self) -> None:
        """Replace the process if a restart was requested."""
        if not self._requested:
            return
        # SIGHUP is ignored until the new worker handles it: until then it would end the process.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        main = sys.modules["__main__"]
        script = None if getattr(main, "__spec__", None) else getattr(main, "__file__", None)
        arguments = command_line(sys.orig_argv, len(sys.argv), script, is_root=os.geteuid() == 0)
        platforms.close_open_fds([sys.__stdin__, sys.__stdout__, sys.__stderr__])
        os.execv(sys.executable, [sys.executable, *arguments])  # noqa: S606  # its own command line


RESTART: Final = Restart()
# Registered early, it runs after what the worker and its libraries registered to save and flush.
atexit.register(RESTART.run_again)
