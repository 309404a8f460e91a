"""The benchmark runs: ours and the floor, with very little to do."""

import json
import subprocess
import sys

import pytest

from tests.support.workers import ROOT

pytestmark = pytest.mark.integration


def test_ours_and_the_floor_get_every_chunk_through_and_all_figures_are_there(tmp_path):
    figures = tmp_path / "figures.json"
    command = [sys.executable, "-m", "tests.benchmarks", "--size", "tiny", "--rounds", "1"]
    chosen = ["--only", "ours,floor", "--scenarios", "stream", "--json", str(figures)]
    ended = subprocess.run(
        [*command, *chosen], cwd=ROOT, capture_output=True, text=True, check=False, timeout=100
    )
    assert ended.returncode == 0, ended.stderr
    assert "| Berlin Worker |" in ended.stdout
    ours, floor = json.loads(figures.read_text())["runs"]
    assert (ours["contender"], floor["contender"]) == ("ours", "floor")
    for run in (ours, floor):
        assert run["sound"]
        assert run["chunks"] == 200
        assert run["cpu_us_a_chunk"] > 0
        assert run["lag_ms"]["p50"] > 0
        assert set(run["busy"]) == {"worker", "upstream", "redis", "subscriber", "machine"}
