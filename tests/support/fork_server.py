"""Python programs started by fork, from a process that has imported their libraries already.

The imports of a worker take a second of CPU time, a fork takes a hundredth of it. In every other
respect a test gets a process of its own: environment, signals, pipes, exit code. This is for Linux
only. Elsewhere, and if a fork would behave otherwise, a new interpreter starts as usual.
"""

import atexit
import contextlib
import ctypes
import functools
import gc
import importlib
import io
import json
import os
import pkgutil
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
import types
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, AnyStr

ROOT = Path(__file__).resolve().parents[2]
_PR_SET_CHILD_SUBREAPER = 36
_MOST_BYTES = 200_000
_READ_AT_START = (
    *("PYTHON", "LC_", "LANG", "LD_", "MALLOC_"),
    *("CELERY_CUSTOM_WORKER_POOL", "REMAP_SIGTERM"),
)
"""Prefixes of the variables that an interpreter, or Celery's modules, read once and for all."""
_MEASURED = "COVERAGE_PROCESS_CONFIG"
"""Set by coverage in processes whose children are measured."""
_QUIET = ["-W", "ignore"]
_LIBRARIES = (
    "aiohttp",
    "celery.apps.worker",
    "celery.bin.celery",
    "celery.worker.consumer",
    "coverage",
    "kombu.transport.redis",
    "pydantic",
    "redis.asyncio",
    "rich.console",
)
_NOT_PRELOADED = {
    # Created from the environment.
    "berlin_worker.celery",
    "berlin_worker.tasks",
    # Pytest's, and OpenTelemetry's: a worker's behaviour depends on whether they are loaded.
    "berlin_worker.testing",
    "berlin_worker.telemetry.otel",
    "berlin_worker.telemetry.otel_setup",
}


class PythonProcess(subprocess.Popen[AnyStr]):
    """``subprocess.Popen``, for commands that start with ``[sys.executable, ...]``."""

    def _execute_child(  # noqa: PLR0917  # the step of Popen that starts the process, as it is since 3.11
        self,
        args: Sequence[str],
        executable: str | None,
        preexec_fn: Any,
        close_fds: bool,
        pass_fds: Any,
        cwd: Any,
        env: Mapping[str, str] | None,
        *rest: Any,
    ) -> None:
        environ = dict(os.environ if env is None else env)
        *_, start_new_session, process_group = rest
        plain = not (preexec_fn or pass_fds or executable or start_new_session)
        if not (plain and process_group in (-1, 0) and can_fork(args, environ)):
            start: Any = super()
            start._execute_child(args, executable, preexec_fn, close_fds, pass_fds, cwd, env, *rest)
            return
        request = {
            "args": list(args[1:]),
            "env": environ,
            "cwd": str(cwd or Path.cwd()),
            "process_group": process_group,
        }
        pipes = rest[3:9]  # of each stream the child's end and ours: in, out, err
        ends = (pipes[0], pipes[3], pipes[5])
        fds = [number if end == -1 else end for number, end in enumerate(ends)]
        try:
            self.pid = _server().fork(request, fds)
            self._child_created = True
        finally:
            close: Any = self
            close._close_pipe_fds(*pipes)


def run_python(
    arguments: Sequence[str], *, timeout: float | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run ``python <arguments>`` with its output as text; options are those of ``Popen``."""
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = [sys.executable, *arguments]
    with PythonProcess[str](command, text=True, **{**pipes, **options}) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def can_fork(args: Sequence[str], environ: Mapping[str, str]) -> bool:
    """Return whether a fork of the server does the same as a new interpreter."""
    return (
        sys.platform == "linux"
        and args[0] == sys.executable
        and (args[1] in ("-c", "-m") or (list(args[1:3]) == _QUIET and args[3] in ("-c", "-m")))
        and _read_at_start(environ) == _read_at_start(_environ_of_server())
    )


def _read_at_start(environ: Mapping[str, str]) -> dict[str, str]:
    return {k: v for k, v in environ.items() if v and k.startswith(_READ_AT_START)}


def _environ_of_server() -> dict[str, str]:
    # Coverage is started in each fork; of the server itself, the imports alone are measured.
    environ = {k: v for k, v in os.environ.items() if not k.startswith("COVERAGE_")}
    return {**environ, "PYTHONPATH": str(ROOT)}


class _Server:
    """The process that forks: one for each process of pytest, with which it ends."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock = threading.Lock()
        with theirs:
            number = theirs.fileno()
            command = [sys.executable, "-m", "tests.support.fork_server"]
            self._process = subprocess.Popen(
                [*command, str(number), os.environ.get(_MEASURED, "")],
                env=_environ_of_server(),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                pass_fds=[number],
            )
        atexit.register(self.close)

    def close(self) -> None:
        """End the server; its forks go on."""
        self._socket.close()
        self._process.wait()

    def fork(self, request: Mapping[str, Any], fds: Sequence[int]) -> int:
        """Return the process ID of a new child of this process."""
        with self._lock, _subreaper():
            socket.send_fds(self._socket, [json.dumps(request).encode()], fds)
            return int(self._socket.recv(_MOST_BYTES))


@functools.cache
def _server() -> _Server:
    return _Server()


@contextlib.contextmanager
def _subreaper() -> Any:
    """Become the parent of orphaned descendants: a fork of the server is one."""
    prctl = ctypes.CDLL(None).prctl
    prctl(_PR_SET_CHILD_SUBREAPER, 1)
    try:
        yield
    finally:
        prctl(_PR_SET_CHILD_SUBREAPER, 0)


# --- In the server ---------------------------------------------------------------------------


def _measure() -> Any:
    """Start coverage, of which this process may have had another instance; return it."""
    return importlib.import_module("coverage").process_startup(force=True)


def _preload_measured(config: str) -> None:
    """Import all that forks need, and save which lines of the project the imports ran."""
    os.environ[_MEASURED] = config
    measured = _measure()
    _preload()
    measured.stop()
    measured.save()
    measured._auto_save = False  # a fork would write these lines once more when it exits
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _preload() -> None:
    for name in _LIBRARIES:
        importlib.import_module(name)
    package = importlib.import_module("berlin_worker")
    for module in pkgutil.walk_packages(package.__path__, "berlin_worker."):
        if not any(f"{module.name}.".startswith(f"{name}.") for name in _NOT_PRELOADED):
            importlib.import_module(module.name)
    assert "berlin_worker.celery" not in sys.modules
    assert "opentelemetry.sdk.trace" not in sys.modules
    assert threading.active_count() == 1, "a fork has the main thread alone"
    gc.collect()
    gc.freeze()  # no collection in a fork visits these objects, and copies their pages


def _serve(requests: socket.socket) -> list[str]:
    """Fork for each request; return, in each fork, the arguments of the program to run."""
    while True:
        data, fds, _, _ = socket.recv_fds(requests, _MOST_BYTES, 3)
        if not data:
            os._exit(0)
        ours, theirs = os.pipe()
        if (middle := os.fork()) == 0:
            # The second fork loses its parent at once, so pytest's process becomes its parent.
            if (pid := os.fork()) == 0:
                for fd in (ours, theirs, requests.detach()):
                    os.close(fd)
                return _become(json.loads(data), fds)
            if json.loads(data)["process_group"] == 0:
                os.setpgid(pid, 0)
            os.write(theirs, str(pid).encode())
            os._exit(0)
        os.waitpid(middle, 0)
        requests.send(os.read(ours, 20))
        for fd in (ours, theirs, *fds):
            os.close(fd)


def _become(request: Mapping[str, Any], fds: Sequence[int]) -> list[str]:
    """Take over all that a new interpreter would have; return its arguments."""
    for number, fd in enumerate(fds):
        os.dup2(fd, number)
        os.close(fd)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    time.tzset()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        stream = _stream(number, mode, getattr(sys, name))
        vars(sys).update({name: stream, f"__{name}__": stream})
    if _MEASURED in os.environ:
        _measure()
    arguments: list[str] = request["args"]
    sys.orig_argv = [sys.executable, *arguments]
    return arguments


def _stream(fd: int, mode: str, like: io.TextIOWrapper) -> io.TextIOWrapper:
    """Open a standard stream as an interpreter does that starts with this descriptor."""
    file: Any = open(fd, f"{mode}b", closefd=False)  # noqa: SIM115  # open until the process ends
    return io.TextIOWrapper(
        file,
        encoding=like.encoding,
        errors=like.errors,
        newline="\n" if mode == "w" else None,
        line_buffering=fd == 2 or file.isatty(),
    )


def _run(arguments: list[str]) -> None:
    """Run ``python <arguments>`` in this process."""
    if arguments[:2] == _QUIET:
        warnings.simplefilter("ignore")
        arguments = arguments[2:]
    option, program, *words = arguments
    sys.argv = [option, *words]
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    if option == "-m":
        # Not runpy.run_module: it takes __main__ away before the handlers of atexit run.
        as_main: Any = runpy
        as_main._run_module_as_main(program)
    else:
        exec(compile(program, "<string>", "exec"), main.__dict__)  # as `python -c`


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for pytest, which ends this process
    if sys.argv[2]:
        _preload_measured(sys.argv[2])
    else:
        _preload()
    _run(_serve(socket.socket(fileno=int(sys.argv[1]))))
