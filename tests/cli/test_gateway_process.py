"""`berlin gateway`: how it starts, refuses and ends."""

import json
import os
import signal
import subprocess

import pytest

from berlin_worker.embedded.redis_server import RedisProcess
from tests.support.cli import BERLIN
from tests.support.fork_server import PythonProcess, run_python
from tests.support.workers import ROOT, TIMEOUT_S

pytestmark = pytest.mark.integration


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    environ = os.environ | {"PYTHONPATH": str(ROOT)} | env
    return run_python([*BERLIN[1:], "gateway", *arguments], env=environ, timeout=TIMEOUT_S)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["TERM", "INT"])
def test_gateway_serves_until_a_signal(redis_server: RedisProcess, number: signal.Signals) -> None:
    with PythonProcess[str](
        [*BERLIN, "gateway", "--port", "0"],
        env=os.environ | {"PYTHONPATH": str(ROOT), "REDIS_URL": redis_server.url},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        shown = next(line for line in lines if line.startswith("gateway "))
        assert "http://127.0.0.1:" in shown
        process.send_signal(number)
        assert process.wait(TIMEOUT_S) == 0


def test_new_key_is_printed_alone_and_its_entry_on_stderr() -> None:
    done = run("--new-key", "acme")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("bk_")
    entry = json.loads(done.stderr.splitlines()[-1])
    assert entry["tenant"] == "acme"
    assert done.stdout.strip() not in done.stderr


def test_gateway_without_keys_refuses_other_hosts_in_one_line() -> None:
    done = run("--host", "0.0.0.0")
    assert done.returncode == 2
    assert "WORKER_GATEWAY_KEYS" in done.stderr
    assert "Traceback" not in done.stderr
