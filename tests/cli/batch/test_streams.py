"""Batches from stdin and to stdout, in several encodings."""

import asyncio
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import click
import pytest
from click.testing import CliRunner

from berlin_worker.cli import inputs, main
from berlin_worker.cli.batch import files
from berlin_worker.cli.batch import run as command
from berlin_worker.cli.batch.files import StdoutResults
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


@contextlib.contextmanager
def full_stdout() -> Iterator[BinaryIO]:
    """Make stdout a full pipe; yield its read end."""
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    with contextlib.suppress(BlockingIOError):
        while os.write(theirs, bytes(4096)):
            pass
    os.set_blocking(theirs, True)
    with (
        open(ours, "rb", buffering=0) as reader,  # noqa: PTH123  # a file descriptor
        open(theirs, "w") as full,  # noqa: PTH123  # a file descriptor
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(sys, "stdout", full)
        yield reader


async def test_full_pipe_blocks_neither_the_loop_nor_the_end() -> None:
    with full_stdout():
        sending = asyncio.create_task(StdoutResults().add({"text": "a"}))
        await asyncio.sleep(0)
        sending.cancel()
        await asyncio.wait({sending})
    assert sending.cancelled()


async def test_reader_gets_a_line_to_its_end_when_the_batch_is_interrupted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(files, "_PAGER_PATIENCE_S", 60)
    result, got = {"text": "x" * 300_000}, b""
    with full_stdout() as reader:
        os.set_blocking(reader.fileno(), False)
        sending = asyncio.create_task(StdoutResults().add(result))
        await asyncio.sleep(0)
        sending.cancel()
        while not sending.done():
            await asyncio.sleep(0)
            got += reader.read(65536) or b""
        got += reader.read(65536) or b""
    assert json.loads(got.strip(b"\0")) == result
    assert sending.cancelled()


def test_results_for_a_closed_stdout_are_not_paid_for(
    batch: BatchRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch.write("a")
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(click.UsageError, match="Stdout is closed"):
        main.main(["batch", str(batch.source), "-o", "-"], standalone_mode=False)


@pytest.mark.parametrize(
    ("output", "problem"),
    [
        ("", ". cannot be used for the results: it names no file"),
        ("fifo", "fifo cannot be used for the results: it is not a regular file, and only - is"),
        ("none/out", "none/out cannot be used for the results: the directory none does not exist"),
        ("x" * 252, f"{'x' * 252} cannot be used for the results: File name too long"),
    ],
)
def test_output_that_is_no_file_is_one_line(
    batch: BatchRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, output: str, problem: str
) -> None:
    batch.write("a")
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo")
    code, err = batch.run("-o", output)
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith(f"berlin: {problem}")
    assert not batch.fleet.paid
