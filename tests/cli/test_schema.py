"""`berlin schema`: the documents of the contract."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from berlin_worker.cli import main

pytestmark = pytest.mark.unit


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["schema", *arguments])


def test_asyncapi_is_printed_and_each_schema_by_its_name() -> None:
    assert json.loads(run().stdout)["asyncapi"].startswith("3.")
    listed = run("--list").stdout.split()
    assert {"asyncapi", "job", "event", "record", "control", "result"} <= set(listed)
    for name in listed:
        done = run(name)
        assert done.exit_code == 0
        assert json.loads(done.stdout)


def test_unknown_name_is_one_line_that_says_what_to_do() -> None:
    done = run("evnt")
    assert done.exit_code == 2
    assert done.stderr == "berlin: no document has that name; did you mean event?\n"
    assert "asyncapi, job" in run("zzz").stderr


def test_check_has_an_exit_code(tmp_path: Path) -> None:
    assert run("--check", str(tmp_path)).exit_code == 1
    assert run("--write", str(tmp_path)).exit_code == 0
    done = run("--check", str(tmp_path))
    assert (done.exit_code, done.output) == (0, "")
