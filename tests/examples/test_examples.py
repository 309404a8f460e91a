"""Each example runs against a real worker and, if it speaks HTTP, a real gateway."""

import json
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import openai
import pytest

from tests.examples.conftest import EXAMPLES, REPLY, Server
from tests.examples.official_client import CHECKS
from tests.support.needed import needed
from tests.support.workers import ROOT

pytestmark = pytest.mark.integration

MOST_LINES = 60
RUN_S = 120.0
SOURCES = sorted(
    path
    for path in EXAMPLES.glob("*/*")
    if path.suffix in {".py", ".mjs", ".sh", ".go"} and not path.name.startswith("check_")
)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_example_is_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < MOST_LINES


def output(command: Sequence[str | Path], environ: dict[str, str], cwd: Path = ROOT) -> str:
    """Run a program, and return what it prints; raises ``AssertionError`` if it fails."""
    done = subprocess.run(
        command, env=environ, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=RUN_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def check_whole(events: list[dict]) -> None:
    """Check that a stream has every event once, in order, to the end."""
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert events[-1]["type"] == "completed"
    text = [event["content"] for event in events if event["type"] == "chunk"]
    assert "".join(text) == REPLY


def test_bare_celery_app_and_redis_py(environ: dict[str, str]) -> None:
    file = EXAMPLES / "python/bare_celery.py"
    # The first attempt breaks off after two chunks; its text is not in the answer.
    assert output([sys.executable, "-W", "error", file, "[[cut:2*1]]"], environ) == f"{REPLY}\n"


@pytest.mark.parametrize("program", ["redis.sh", "gateway.sh"])
def test_shell(environ: dict[str, str], program: str) -> None:
    needed(shutil.which("redis-cli" if program == "redis.sh" else "curl"), f"tool of {program}")
    printed = output([EXAMPLES / "shell" / program, "Hello [[delay:0.05]]"], environ)
    check_whole([json.loads(line) for line in printed.splitlines()])


def test_go(environ: dict[str, str], tmp_path: Path) -> None:
    go = needed(shutil.which("go"), "go")
    local = {"GOPROXY": "off", "GOTOOLCHAIN": "local", "GOCACHE": str(tmp_path / "cache")}
    program = tmp_path / "example"
    output([go, "build", "-o", program, "."], environ | local, EXAMPLES / "go")
    assert output([program, "Hello"], environ) == f"{REPLY}\n"


@pytest.mark.parametrize("program", ["celery", "openai", "ai_sdk"])
def test_node(environ: dict[str, str], node_folder: Path, program: str) -> None:
    printed = output(["node", f"{program}.mjs", "Hello"], environ, node_folder)
    lines = printed.splitlines()
    assert lines[0] == REPLY
    assert lines[1:] == [] if program == "celery" else lines[1].endswith(" tokens")


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_official_openai_package_of_python(
    environ: dict[str, str], check: Callable[[openai.OpenAI], None]
) -> None:
    with openai.OpenAI(base_url=f"{environ['BASE_URL']}/v1", api_key="none") as client:
        check(client)


def test_official_openai_package_of_node(environ: dict[str, str], node_folder: Path) -> None:
    printed = output(["node", "check_openai.mjs"], environ, node_folder)
    assert printed.split() == [
        *("models", "chat", "stream", "tools", "errors", "retries", "abort", "background")
    ]


def test_official_parser_accepts_the_asyncapi_document(node_folder: Path) -> None:
    document = ROOT / "schemas/asyncapi.json"
    environ = {"PATH": "/usr/local/bin:/usr/bin:/bin"}
    printed = output(["node", "check_asyncapi.mjs", document], environ, node_folder)
    assert "7 channels" in printed


@pytest.fixture(params=["fastapi_relay", "django_relay"])
def relay(environ: dict[str, str], request: pytest.FixtureRequest) -> Iterator[str]:
    command = [sys.executable, "-m", "uvicorn", "--port", "0", f"{request.param}:app"]
    with Server(command, environ, EXAMPLES / "python") as url:
        yield url


def frames(url: str, last_event_id: str, most: int) -> list[dict]:
    """Read at most ``most`` events, and close the connection."""
    request = urllib.request.Request(url, headers={"Last-Event-ID": last_event_id})
    events: list[dict] = []
    with closing(urllib.request.urlopen(request, timeout=RUN_S)) as response:
        assert response.headers["Content-Type"].startswith("text/event-stream")
        for line in response:
            if line.startswith(b"data: "):
                events.append(json.loads(line.removeprefix(b"data: ")))
                if len(events) == most:
                    break
    return events


def test_relay_continues_after_the_last_event_of_a_browser(relay: str) -> None:
    body = json.dumps({"prompt": "Hello [[delay:0.05]]"}).encode()
    request = urllib.request.Request(f"{relay}/jobs", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=RUN_S) as response:
        job_id = json.load(response)["job_id"]
    url = f"{relay}/jobs/{job_id}/events"
    events = frames(url, "", 2)
    events += frames(url, str(events[-1]["seq"]), 100)
    check_whole(events)
    assert frames(url, "1", 100) == events[1:]
