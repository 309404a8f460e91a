"""Ports that two processes want at once."""

import subprocess
import sys

import pytest

from berlin_worker.embedded import redis_server as embedded

pytestmark = pytest.mark.integration


def test_port_of_another_process_is_not_free(monkeypatch):
    """Its server may not have bound it yet."""
    code = "from berlin_worker.embedded.redis_server import free_port as f; print(f()); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        taken = int(other.stdout.readline())
        assert not embedded._reserved(taken)
        other.communicate(b"\n")
    assert embedded._reserved(taken)
    monkeypatch.setattr(embedded, "_reservations", lambda: None)  # a directory without rights
    assert embedded._reserved(taken)
