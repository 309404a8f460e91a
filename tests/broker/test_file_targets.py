"""Files that options of ``celery worker`` name: a file that no worker has written is refused."""

import os
import shelve
from pathlib import Path

import pytest
from celery.utils.collections import LimitedSet
from celery.worker import state
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kombu.clocks import LamportClock

from berlin_worker.broker.file_targets import file_refusal
from tests.support.selection import examples

pytestmark = pytest.mark.unit

OPTIONS = ["logfile", "pidfile", "statedb"]


@pytest.fixture(autouse=True)
def revoked(monkeypatch):
    """Keep what these tests revoke from the workers of other tests in this process."""
    monkeypatch.setattr(state, "revoked", LimitedSet())


@pytest.mark.parametrize("option", OPTIONS)
def test_new_file_is_accepted_and_not_created(tmp_path, option):
    assert file_refusal(option, tmp_path / "new") is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["pidfile", "statedb"])
@pytest.mark.parametrize("device", ["/dev/null", "/dev/full", "/dev/zero"])
def test_device_is_refused(option, device):
    assert "is no regular file" in str(file_refusal(option, Path(device)))


@pytest.mark.parametrize("option", ["pidfile", "statedb"])
def test_named_pipe_is_refused_and_not_opened(tmp_path, option):
    os.mkfifo(tmp_path / "pipe")
    assert "is no regular file" in str(file_refusal(option, tmp_path / "pipe"))


@pytest.mark.parametrize("option", OPTIONS)
def test_link_that_leads_nowhere_is_refused(tmp_path, option):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "far").symlink_to(tmp_path / "none" / "x")
    assert "is a link to nothing" in str(file_refusal(option, tmp_path / "loop"))
    assert "does not exist" in str(file_refusal(option, tmp_path / "far"))


def test_link_to_a_file_that_is_created_later_is_refused_for_a_pid_alone(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "later")
    assert file_refusal("logfile", tmp_path / "link") is None
    assert file_refusal("statedb", tmp_path / "link") is None
    assert "is a link to nothing" in str(file_refusal("pidfile", tmp_path / "link"))


@pytest.mark.parametrize("content", [b"", b"123\n", b"12", b"4194304\n", b" 7 \n"])
def test_pid_file_of_an_earlier_worker_is_accepted(tmp_path, content):
    (tmp_path / "pid").write_bytes(content)
    assert file_refusal("pidfile", tmp_path / "pid") is None


@pytest.mark.parametrize(
    "content", [b"x", b"-1\n", b"9" * 20 + b"\n", b"\xff\xfe", b"key = value\n" * 99, b"1\n2\n"]
)
def test_file_without_a_pid_is_refused_and_kept(tmp_path, content):
    (tmp_path / "pid").write_bytes(content)
    assert "holds no process ID" in str(file_refusal("pidfile", tmp_path / "pid"))
    assert (tmp_path / "pid").read_bytes() == content


def save_state(path: Path) -> None:
    saved = state.Persistent(state, str(path), LamportClock())
    saved.save()


def test_state_of_an_earlier_worker_is_accepted(tmp_path):
    save_state(tmp_path / "state")
    assert file_refusal("statedb", tmp_path / "state") is None


@pytest.mark.parametrize("key", ["zrevoked", "clock", "revoked"])
@pytest.mark.parametrize("value", ["text", 7, b"bytes", object, [1]])
def test_state_with_another_value_is_accepted_or_refused(tmp_path, key, value):
    path = tmp_path / "state"
    with shelve.open(str(path)) as saved:
        saved[key] = value
    if file_refusal("statedb", path) is None:
        save_state(path)  # Celery can read it, too


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=examples(60))
@given(st.binary(max_size=200), st.sampled_from(["", ".dir", ".dat", ".db"]), st.booleans())
def test_garbage_as_state_is_refused_or_read_by_celery(tmp_path, content, suffix, after_a_worker):
    for old in tmp_path.iterdir():
        old.unlink()
    path = tmp_path / "state"
    if after_a_worker:
        save_state(path)
    Path(f"{path}{suffix}").write_bytes(content)
    message = file_refusal("statedb", path)
    if message is None:
        save_state(path)
    else:
        assert "holds no state of a worker" in message
