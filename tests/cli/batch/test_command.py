"""`berlin batch`: when nothing is sent, and expired results."""

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from berlin_worker.cli import main
from berlin_worker.cli.batch import run as command
from berlin_worker.cli.batch.files import BatchFiles
from berlin_worker.cli.batch.lines import read_lines
from berlin_worker.cli.errors import Problem
from berlin_worker.client import Unavailable
from tests.support.batch import FakeClient

pytestmark = pytest.mark.unit


@pytest.fixture
def fake_client(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    client = FakeClient()
    monkeypatch.setattr(command, "open_client", lambda **_: contextlib.nullcontext(client))
    return client


def invoke(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["batch", *map(str, arguments)])
    assert result.stdout == ""
    return result.exit_code, result.stderr


def test_bad_line_prevents_every_submission(tmp_path: Path, fake_client: FakeClient) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('"a"\n{"promt": "b"}\n')
    code, err = invoke(source, "-o", out)
    assert code == 2
    assert f"{source}:2: neither prompt nor messages" in err
    assert "nothing was sent" in err
    assert not fake_client.sent
    code, err = invoke(source, "-o", out, "--keep-going")
    assert code == 1
    assert "2 of 2 results, 1 of them not completed" in err
    assert len(fake_client.sent) == 1


def test_batch_that_is_done_sends_nothing(tmp_path: Path, fake_client: FakeClient) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('"a"\n"b"\n')
    assert invoke(source, "-o", out)[0] == 0
    before = out.read_bytes()
    assert invoke(source, "-o", out)[0] == 0
    assert out.read_bytes() == before
    assert set(fake_client.sent.values()) == {1}
    # An added line is sent. A changed line, too: its old result belongs to another job.
    source.write_text('"a"\n"b"\n"c"\n')
    assert invoke(source, "-o", out)[0] == 0
    assert len(fake_client.sent) == 3
    source.write_text('"a"\n"B"\n"c"\n')
    code, err = invoke(source, "-o", out)
    assert code == 0
    assert len(fake_client.sent) == 4
    results = [json.loads(result) for result in out.read_text().splitlines()]
    assert [result["line"] for result in results] == [1, 2, 3]
    assert f"1 results of lines that are no longer in the input are in {out}.kept" in err


def test_input_is_never_used_as_output(tmp_path: Path, fake_client: FakeClient) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('"a"\n')
    assert invoke(source, "-o", source)[0] == 2
    assert source.read_text() == '"a"\n'


def test_named_pipe_is_refused_as_input(tmp_path: Path, fake_client: FakeClient) -> None:
    os.mkfifo(tmp_path / "in.jsonl")
    assert invoke(tmp_path / "in.jsonl", "-o", tmp_path / "out.jsonl")[0] == 2
    assert not (tmp_path / "out.jsonl").exists()


@pytest.fixture
def expired_batch(tmp_path: Path, fake_client: FakeClient) -> tuple[Path, Path]:
    """Return the files of a batch that sent two of three lines long ago; Redis has one of them."""
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('"a"\n"b"\n"c"\n')
    with BatchFiles(out) as files:
        files.about_to_send(2, time.time() - 100_000)
        with source.open("rb") as data:
            lines = list(read_lines(data, files.progress.run, {}))
    fake_client.sent[str(lines[1].job_id)] = 1
    return source, out


def test_expired_results_are_not_paid_again_without_consent(
    expired_batch: tuple[Path, Path], fake_client: FakeClient
) -> None:
    source, out = expired_batch
    code, err = invoke(source, "-o", out)
    assert code == 1
    assert "(lines 1); nothing was sent" in err
    assert "--expired=again" in err
    assert not fake_client.paid
    # A second run has the same result.
    assert invoke(source, "-o", out)[0] == 1


def test_expired_results_are_sent_again_on_demand(
    expired_batch: tuple[Path, Path], fake_client: FakeClient
) -> None:
    source, out = expired_batch
    assert invoke(source, "-o", out, "--expired", "again")[0] == 0
    assert sum(fake_client.paid.values()) == 2


def test_expired_results_are_skipped_on_demand(
    expired_batch: tuple[Path, Path], fake_client: FakeClient
) -> None:
    source, out = expired_batch
    assert invoke(source, "-o", out, "--expired", "skip")[0] == 1
    results = [json.loads(result)["status"] for result in out.read_text().splitlines()]
    assert results == ["expired", "completed", "completed"]
    assert sum(fake_client.paid.values()) == 1


def test_recently_sent_lines_need_no_consent(tmp_path: Path, fake_client: FakeClient) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('"a"\n"b"\n')
    # Killed between the note and the submission: the job was never sent.
    with BatchFiles(out) as files:
        files.about_to_send(2, time.time())
    assert invoke(source, "-o", out)[0] == 0


def test_interrupted_connection_has_a_hint(
    tmp_path: Path, fake_client: FakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(prompt: dict[str, Any], *, job_id: str) -> str:
        raise Unavailable("Redis is away")

    monkeypatch.setattr(fake_client, "submit", away)
    source = tmp_path / "in.jsonl"
    source.write_text('"a"\n')
    code, err = invoke(source, "-o", tmp_path / "out.jsonl")
    assert code == Problem("").exit_code
    assert "berlin: Redis is away; the same command goes on" in err
