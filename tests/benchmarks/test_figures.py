"""The pure parts of the benchmark: statistics, scenarios, tables, verdicts."""

import pytest

from tests.benchmarks import report
from tests.benchmarks.fleet import CONTENDERS, ROOT
from tests.benchmarks.scenarios import EVERYBODY, scenarios
from tests.benchmarks.stats import Summary, jobs_a_second, percentile
from tests.benchmarks.subscriber import Tally
from tests.benchmarks.targets import verdicts

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("percent", "expected"), [(0, 1), (1, 1), (50, 50), (99, 99), (99.1, 100), (100, 100)]
)
def test_percentile_is_the_nearest_rank(percent, expected):
    assert percentile(range(1, 101), percent) == expected


def test_percentiles_of_one_value_are_that_value():
    assert percentile([7], 1) == percentile([7], 99) == 7


def test_empty_sample_has_neither_percentile_nor_summary():
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)
    with pytest.raises(ValueError, match="no values"):
        Summary.of([])


def test_summary_is_the_median_and_half_the_range_as_a_share_of_it():
    assert Summary.of([12, 8, 10]) == Summary(10, 0.2, 3)
    assert Summary.of([0.0]).spread == 0
    assert Summary.of([30]).ratio(Summary.of([20])) == 1.5
    assert Summary.of([30]).ratio(Summary.of([0])) is None


def test_rate_of_jobs_leaves_out_the_start_of_the_worker():
    begun_slowly = [0, *(10_000_000_000 + n * 1_000_000 for n in range(1, 20))]
    assert jobs_a_second(begun_slowly) == pytest.approx(1000)
    assert jobs_a_second(reversed(begun_slowly)) == pytest.approx(1000)


@pytest.mark.parametrize("heard", [[], [5], [5, 5]])
def test_too_few_jobs_have_no_rate(heard):
    assert jobs_a_second(heard) is None


def test_every_contender_has_its_place_and_its_command():
    assert set(CONTENDERS) == set(EVERYBODY)
    for contender in CONTENDERS.values():
        command = contender.command(streams=7, number=1)
        assert not any("{" in word for word in command)


@pytest.mark.parametrize("size", ["tiny", "quick", "full"])
def test_every_size_has_the_same_scenarios_and_none_is_empty(size):
    assert [s.name for s in scenarios(size)] == [s.name for s in scenarios("full")]
    assert all(s.jobs and s.chunks and s.streams and s.workers for s in scenarios(size))
    assert {s.streams for s in scenarios(size) if s.kind == "memory"} == {1}


def test_worker_of_few_streams_gets_fewer_jobs_but_the_whole_backlog():
    by_name = {s.name: s for s in scenarios("full")}
    assert (by_name["stream"].held_by(50).jobs, by_name["stream"].held_by(50).streams) == (50, 50)
    assert (by_name["jobs"].held_by(50).jobs, by_name["jobs"].held_by(50).streams) == (5000, 50)
    assert by_name["stream"].held_by(5000) == by_name["stream"]


def test_lost_doubled_and_reordered_chunks_are_counted():
    tally = Tally()
    for index in (0, 1, 1, 3, 2):
        tally.chunk(b"j", b"%d %d token" % (index, index), now=10)
    assert tally.disorder == 3
    whole = Tally()
    for index in range(3):
        whole.chunk(b"j", b"%d %d token" % (index, index), now=10)
    assert whole.disorder == 0
    assert whole.result()["chunks"] == 3


def test_steady_lag_is_that_of_the_time_in_which_all_streams_were_in_flight():
    tally = Tally()
    second = 1_000_000_000
    for job, begin in ((b"early", 0), (b"late", 2 * second)):
        for index in range(6):
            sent = begin + index * second
            lag = 1_000_000 if 3 * second <= sent <= 5 * second else 50_000_000
            tally.chunk(job, b"%d %d token" % (sent, index), now=sent + lag)
    assert tally.result()["steady_lag_ms"] == {"p50": 1, "p99": 1}
    assert tally.result()["lag_ms"]["p99"] == 50


def run(contender: str, scenario: str = "stream", **figures: object) -> dict[str, object]:
    return {"contender": contender, "scenario": scenario, "jobs": 1000, "sound": True, **figures}


def test_table_shows_median_spread_and_ratio_to_ours():
    rounds = [run("ours", cpu_us_a_chunk=cost) for cost in (40, 50, 60)]
    rounds.append(run("arq", cpu_us_a_chunk=200.0))
    scenario = next(s for s in scenarios("full") if s.name == "stream")
    table = report.table(scenario, rounds).splitlines()
    assert "Berlin Worker | 50.0 | ± 20% | 1.00 |" in table[2]
    assert "arq | 200.0 | ± 0% | 4.00 |" in table[3]
    assert len({line.count("|") for line in table}) == 1


@pytest.mark.parametrize(
    ("figures", "mark"),
    [
        ({"sound": False, "lost": 1234}, "**lost 1,234 chunks**"),
        ({"sound": False, "error": "no 'warm' within 60 s"}, "failed: no 'warm' within 60 s"),
        ({"sound": False}, "**out of order, or failed jobs**"),
        ({"jobs": 50}, "(50 streams)"),
    ],
)
def test_contender_that_loses_fails_or_holds_fewer_streams_is_marked(figures, mark):
    scenario = next(s for s in scenarios("full") if s.name == "stream")
    assert mark in report.table(scenario, [run("arq", cpu_us_a_chunk=1.0) | figures])


def test_memory_of_a_stream_is_what_it_adds_to_a_waiting_worker():
    runs = [
        run("ours", "memory", idle_memory_bytes=50_000_000),
        run("ours", "flight-5000", memory_bytes=250_000_000, jobs=5000),
        run("arq", "flight-5000", memory_bytes=1, jobs=5000),
    ]
    _, ours, arq = report.with_memory(runs)
    assert ours["memory_a_stream"] == 40_000
    assert "memory_a_stream" not in arq


def test_verdict_is_given_where_both_figures_are_there():
    runs = [
        run("ours", cpu_us_a_chunk=50.0, steady_lag_ms={"p50": 1.0, "p99": 3.0}),
        run("floor", cpu_us_a_chunk=40.0, steady_lag_ms={"p50": 1.0, "p99": 1.0}),
        run("saq", cpu_us_a_chunk=160.0),
        run("arq", cpu_us_a_chunk=400.0),
        run("ours", "flat", cpu_us_a_chunk=10.0),
        run("arq", "flat", cpu_us_a_chunk=29.0),
        run("saq", "flat", cpu_us_a_chunk=40.0),
        run("ours", "idle", first_chunk_ms={"p50": 5.4}),
        run("ours", "jobs", jobs_a_second=900.0),
        run("taskiq", "jobs", jobs_a_second=1000.0),
    ]
    held = [v.held for v in verdicts(runs, upstream_ms=0.5)]
    assert held == [True, True, None, False, None, None, False, True, False, None, None]
    assert "(saq)" in verdicts(runs, upstream_ms=0.5)[1].target
    assert "(arq)" in verdicts(runs, upstream_ms=0.5)[3].target
    assert all(v.held is None for v in verdicts([], upstream_ms=0.5))


def test_readme_is_filled_between_its_marks_alone():
    figures = {
        "begun": "today",
        "machine": "2 cores",
        "size": "full",
        "rounds": 3,
        "load_average": 0.1,
        "upstream_first_chunk_ms": {"p50": 0.2},
        "runs": [run("ours", cpu_us_a_chunk=50.0), run("floor", cpu_us_a_chunk=40.0)],
    }
    readme = "a\n<!-- benchmark -->\nold\n<!-- /benchmark -->\nz\n"
    filled = report.filled(readme, figures)
    assert filled.startswith("a\n<!-- benchmark -->\n## How fast it is\n")
    assert filled.endswith("\n<!-- /benchmark -->\nz\n")
    assert "old" not in filled
    assert "| 50.0 µs beside 40.0: 1.25 x | yes |" in filled
    assert report.filled(filled, figures) == filled
    with pytest.raises(ValueError, match="put <!-- benchmark -->"):
        report.filled("no marks", figures)


def test_readme_of_this_project_has_its_marks():
    assert "<!-- benchmark -->\n" in (ROOT / "tests/README.md").read_text()
