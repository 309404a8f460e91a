"""Flower on Celery's events: it shows workers and tasks, and no prompt."""

import contextlib
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from berlin_worker.embedded.redis_server import free_port
from berlin_worker.embedded.upstream import upstream_in_thread
from tests.support.fleet import Fleet, prompt
from tests.support.fork_server import PythonProcess
from tests.support.manifests import tool
from tests.support.workers import ROOT, wait_until

pytestmark = pytest.mark.integration

PROMPT = "the-secret-prompt"
REPLY = "the-secret-reply"
BROWSER = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--virtual-time-budget=10000", "--dump-dom",
)  # fmt: skip


@dataclass(frozen=True)
class Page:
    """Flower, and the jobs that it has seen: one that has ended, and one that runs."""

    port: int
    worker: str
    ended: str
    running: str

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.url(path), timeout=30) as reply:
            return str(reply.read().decode())

    def answers(self, path: str) -> bool:
        with contextlib.suppress(OSError):
            return bool(self.get(path))
        return False


@pytest.fixture(scope="module")
def page(redis_server) -> Iterator[Page]:
    """Run `celery flower` beside a worker without the option for events: Flower asks for them."""
    url = redis_server.url.removesuffix("/0") + "/3"
    port = free_port()
    with upstream_in_thread(reply=REPLY) as upstream:
        fleet = Fleet(url, upstream)
        fleet.redis.flushdb()
        with fleet.worker("-c", "4") as worker, flower(url, port):

            def seen() -> str:
                job_id = fleet.send(prompt(PROMPT))
                fleet.ended(job_id)
                return job_id if page.answers(f"/task/{job_id}") else ""

            page = Page(port, worker.hostname, "", "")
            wait_until(lambda: page.answers("/healthcheck"), "Flower answers")
            ended = wait_until(seen, "Flower has seen a task")
            running = fleet.send(prompt(f"[[stall:1]] {PROMPT}"))
            fleet.running(running)
            page = Page(port, worker.hostname, ended, running)
            wait_until(lambda: page.answers(f"/task/{running}"), "it has seen another")
            yield page


@contextlib.contextmanager
def flower(url: str, port: int) -> Iterator[None]:
    command = [sys.executable, "-m", "celery", "flower", f"--port={port}", "--address=127.0.0.1"]
    with PythonProcess[bytes](
        command,
        env=os.environ | {"CELERY_BROKER_URL": url, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            yield
        finally:
            process.kill()


def test_flower_page_shows_tasks_and_no_prompt(page, tmp_path):
    done = subprocess.run(
        [tool("chromium"), *BROWSER, f"--user-data-dir={tmp_path}", page.url("/tasks")],
        env=os.environ | {"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for shown in ("worker.generate", page.ended, page.running, "SUCCESS", "STARTED"):
        assert shown in done.stdout
    assert_no_secret_in(done.stdout)


def test_flower_pages_show_no_prompt_and_no_reply_and_stop_no_worker_without_a_login(page):
    for path in (
        "/", "/workers?json=1", "/tasks", "/broker", f"/worker/{page.worker}", "/metrics",
        f"/task/{page.ended}", f"/task/{page.running}",
    ):  # fmt: skip
        assert_no_secret_in(page.get(path))
    assert "worker.generate" in page.get(f"/task/{page.running}")
    for action in (f"worker/shutdown/{page.worker}", f"task/revoke/{page.running}"):
        asked = urllib.request.Request(page.url(f"/api/{action}"), method="POST", data=b"")
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(asked, timeout=30)


def assert_no_secret_in(text: str) -> None:
    assert PROMPT not in text
    assert REPLY not in text
