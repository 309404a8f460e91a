"""Batches from stdin and to stdout, in several encodings."""

import contextlib
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from berlin_worker.cli import main
from berlin_worker.cli.batch import run as command
from tests.support.batch import BatchRun

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_input_may_have_a_mark_crlf_and_blank_lines(batch: BatchRun, encoding: str) -> None:
    batch.source.write_bytes('"ä"\r\n\r\n   \r\n{"prompt": "😀"}\r\n'.encode(encoding))
    assert batch.run()[0] == 0
    assert batch.texts() == ["answer to ä", "answer to 😀"]
    assert [result["line"] for result in batch.results()] == [1, 4]


def test_binary_line_is_a_bad_line(batch: BatchRun) -> None:
    batch.source.write_bytes(b'"a"\n"\xff"\n')
    code, err = batch.run()
    assert code == 2
    assert ":2: not UTF-8 text (byte 2 of the line)" in err


def test_lines_are_read_from_stdin_and_the_next_run_finds_the_results(
    batch: BatchRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch.source = Path("-")
    batch.fleet.left = 1
    lines = b'\xef\xbb\xbf"a"\n"b"\n'
    assert batch.run("-c", "1", stdin=lines)[0] == 1
    batch.fleet.left = -1
    assert batch.run(stdin=lines)[0] == 0
    assert batch.texts() == ["answer to a", "answer to b"]
    assert sum(batch.fleet.paid.values()) == 2


def test_results_may_go_to_stdout(batch: BatchRun, monkeypatch: pytest.MonkeyPatch) -> None:
    batch.write("ä", {"promt": 1})
    fleet = batch.fleet
    monkeypatch.setattr(command, "open_client", lambda **_: contextlib.nullcontext(fleet))
    found = CliRunner().invoke(main, ["batch", str(batch.source), "-o", "-", "--keep-going"])
    assert found.exit_code == 1
    results = [json.loads(line) for line in found.stdout.splitlines()]
    assert [result["status"] for result in results] == ["completed", "failed"]
    assert "2 of 2 results, 1 of them not completed in stdout" in found.stderr
    assert [path.name for path in batch.source.parent.iterdir()] == ["in.jsonl"]
