"""Batches from stdin and to stdout, in several encodings."""

import contextlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from berlin_worker.cli import inputs, main
from berlin_worker.cli.batch import run as command
from tests.support.batch import BatchRun, Fleet

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


def test_non_blocking_stdin_is_read_to_its_end(batch: BatchRun, tmp_path: Path) -> None:
    ours, theirs = os.pipe()
    os.set_blocking(ours, False)
    batch.source = Path("-")
    os.write(theirs, b'"a"\n')

    def write_the_rest(*_: object, **__: object) -> None:
        os.write(theirs, b'"b"\n')
        os.close(theirs)

    with open(ours, "rb") as raw, pytest.MonkeyPatch.context() as patch:  # noqa: PTH123  # a file descriptor
        # The command prints that it waits once it has read all that had come.
        patch.setattr(inputs, "PATIENCE_S", 0.01)
        patch.setattr(inputs, "print_err", write_the_rest)
        assert batch.run(stdin=raw)[0] == 0
    assert batch.texts() == ["answer to a", "answer to b"]


def test_prompts_of_stdin_have_no_name_on_disk(batch: BatchRun, tmp_path: Path) -> None:
    batch.source = Path("-")
    spool = tmp_path / "spool"
    spool.mkdir()
    seen: list[Path] = []

    async def submit(*args: Any, **options: Any) -> str:
        seen.extend(spool.iterdir())
        return await Fleet.submit(batch.fleet, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(spool))
        patch.setattr(batch.fleet, "submit", submit)
        assert batch.run(stdin=b'"a"\n"b"\n')[0] == 0
    assert batch.texts() == ["answer to a", "answer to b"]
    assert not seen


def test_text_that_does_not_match_its_mark_is_called_by_its_name(batch: BatchRun) -> None:
    batch.source = Path("-")
    code, err = batch.run(stdin=b"\xff\xfea")
    assert (code, err) == (2, "berlin: stdin is not UTF-16 text: truncated data\n")
