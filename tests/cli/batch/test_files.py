"""Files of a batch: results and progress survive a crash, other files are not changed."""

import json
from pathlib import Path

import pytest

from berlin_worker.cli.batch.files import BatchFiles
from berlin_worker.cli.batch.preflight import WrongOutput

pytestmark = pytest.mark.unit


async def test_torn_last_result_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with BatchFiles(path) as files:
        await files.add({"line": 1, "text": "ü\n"})
        run = files.progress.run
    with path.open("ab") as out:
        out.write(b'{"line": 2, "te')
    with BatchFiles(path) as files:
        assert files.progress.run == run
        assert [json.loads(result)["line"] for result in files.results()] == [1]
        await files.add({"line": 2})
        assert [json.loads(result)["line"] for result in files.results()] == [1, 2]


def test_progress_survives_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with BatchFiles(path) as files:
        files.about_to_send(12_345_678, 1_795_342_555.123)
        files.about_to_send(7, 1_795_342_556.0)
        note = files.progress
    with BatchFiles(path) as files:
        assert files.progress == note
        assert files.progress.sent == 12_345_678


def test_removed_results_restart_the_batch(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with BatchFiles(path) as files:
        run = files.progress.run
    path.unlink()
    with BatchFiles(path) as files:
        assert files.progress.run != run
        assert files.progress.sent == 0


def test_file_of_another_program_is_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("dear diary")
    with pytest.raises(WrongOutput):
        BatchFiles(path)
    assert path.read_text() == "dear diary"
    assert list(tmp_path.iterdir()) == [path]


def test_empty_file_may_be_used(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.touch()
    with BatchFiles(path) as files:
        assert list(files.results()) == []


def test_two_batches_do_not_write_the_same_results(files: BatchFiles) -> None:
    with pytest.raises(WrongOutput, match="another batch"):
        BatchFiles(files.path)


async def test_result_set_aside_exists_once_and_is_read_back(files: BatchFiles) -> None:
    results = [
        {"line": number, "job_id": f"j{number}", "status": "completed"} for number in (1, 2, 3)
    ]
    for result in results:
        await files.add(result)
    known = files.set_aside(files.load(), 1)
    assert [json.loads(line) for line in files.results()] == results[:1]
    known = files.set_aside(known, 0)
    assert known.in_file == 0
    kept = sorted((files.kept(place) for place in known.places), key=lambda each: each["line"])
    assert kept == results
    files.finish(unused=3)
    assert len(files.load().places) == 3
    files.finish(unused=0)
    assert not files.load().places


async def test_result_is_json_for_every_parser(files: BatchFiles) -> None:
    await files.add({"line": 1, "usage": {"a": float("nan"), "b": [float("inf"), 1.5]}})
    [line] = files.results()
    assert json.loads(line, parse_constant=pytest.fail)["usage"] == {"a": None, "b": [None, 1.5]}
