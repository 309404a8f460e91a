"""The client's package in processes of their own: under mypy, and what its import loads."""

import subprocess
import sys

import pytest

from tests.support.type_check import MYPYPATH, mypy_errors

pytestmark = pytest.mark.integration

SNIPPET = """
from berlin_worker.client import AsyncClient, Client

for client in (AsyncClient(), Client()):
    a = client.submit("Hello", job_id="mine", model="m", options={"temperature": 0}, tenant=None)
    b = client.submit_and_stream("Hello", deadline_s=60, on_interrupt="keep", metadata={"a": 1})
    c = client.submit("Hello", modle="m")
    d = client.submit_and_stream("Hello", on_interrupt="never")
    e = client.submit("Hello", deadline_s="60")
"""


def test_misspelt_field_fails_under_mypy(tmp_path, monkeypatch):
    monkeypatch.setenv("MYPYPATH", MYPYPATH)
    errors = mypy_errors(SNIPPET, tmp_path)
    assert [number for number, _ in errors] == [7, 7, 8, 8, 9, 9], errors
    assert all("modle" in message for _, message in errors[:2])


def test_importing_the_client_loads_neither_worker_nor_http_client():
    heavy = (
        "aiohttp",
        *("berlin_worker.celery", "berlin_worker.tasks", "berlin_worker.pool"),
        *("berlin_worker.jobs.runner", "berlin_worker.providers", "berlin_worker.testing"),
        "pytest",
    )
    check = (
        "import sys, berlin_worker.client; "
        f"print([m for m in sys.modules if m in {heavy} or m.startswith('aiohttp.')])"
    )
    found = subprocess.run(
        [sys.executable, "-c", check],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": MYPYPATH},
    )
    assert found.stdout.strip() == "[]"
