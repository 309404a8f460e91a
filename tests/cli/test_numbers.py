"""Numbers on the command line that no program can use are wrong usage."""

import pytest
from click.testing import CliRunner

from berlin_worker.cli import main

pytestmark = pytest.mark.unit

SECONDS = ["nan", "-nan", "inf", "-inf", "1e400", "1e300", "-1", "x", ""]
COUNTS = ["0", "-1", "9" * 30, "1e3", "nan", ""]


@pytest.mark.parametrize("text", SECONDS)
@pytest.mark.parametrize(
    "command",
    [
        ["top", "--once", "--interval"],
        ["tail", "x", "--wait-for-start"],
        ["submit", "x", "--deadline"],
        ["submit", "x", "--idle-timeout"],
    ],
)
def test_seconds_out_of_range_are_wrong_usage(command, text):
    result = CliRunner().invoke(main, [*command, text])
    assert result.exit_code == 2, result.output
    assert command[-1] in result.output


@pytest.mark.parametrize("text", COUNTS)
@pytest.mark.parametrize(
    "command", [["dead", "list", "-n"], ["worker", "-c"], ["tail", "x", "--after"], ["list", "-n"]]
)
def test_counts_out_of_range_are_wrong_usage(command, text):
    if (command[-1], text) == ("--after", "0"):
        return
    result = CliRunner().invoke(main, [*command, text])
    assert result.exit_code == 2, result.output


@pytest.mark.parametrize("output", ["none/such/out", "x" * 300, "prompts/out"])
def test_results_that_cannot_be_written_are_wrong_usage(tmp_path, output):
    prompts = tmp_path / "prompts"
    prompts.write_text('"Hello"\n')
    result = CliRunner().invoke(main, ["batch", str(prompts), "-o", str(tmp_path / output)])
    assert result.exit_code == 2
    assert "cannot be used for the results" in result.output
