"""The numbers of a worker: counters, labels, histograms and snapshots."""

import bisect
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berlin_schemas import ErrorCode
from berlin_worker.telemetry.stats import (
    MODELS_MAX,
    OUTCOMES,
    Counts,
    Histogram,
    Histograms,
    Models,
    Stats,
)

pytestmark = pytest.mark.unit

VALUES = st.lists(st.floats(min_value=0, max_value=1000), min_size=1, max_size=200)


def operation(stats: Stats, model: str = "m", **changes: object) -> None:
    fields = {"duration_s": 2.0, "first_chunk_s": 0.5, "stream_s": 1.0, "chunks": 5}
    stats.operation("berlin", model, **(fields | changes))  # type: ignore[arg-type]  # as fields


@given(VALUES)
def test_histogram_counts_every_value_once_and_in_its_interval(values):
    histogram = Histogram((0.5, 1.0, 10.0))
    for value in values:
        histogram.observe(value)
    assert histogram.count == len(values)
    assert histogram.sum == pytest.approx(sum(values))
    for place, bound in enumerate(histogram.bounds):
        assert sum(histogram.counts[: place + 1]) == sum(value <= bound for value in values)


@given(VALUES, st.floats(min_value=0.01, max_value=1))
def test_quantile_lies_in_the_interval_of_its_value(values, q):
    histogram = Histogram((0.5, 1.0, 10.0, 1000.0))
    for value in values:
        histogram.observe(value)
    rank = q * len(values)
    true = sorted(values)[min(len(values), max(1, -int(-rank // 1))) - 1]
    place = bisect.bisect_left(histogram.bounds, true)
    low = histogram.bounds[place - 1] if place else 0.0
    found = histogram.quantile(q)
    assert found is not None
    assert low <= found <= histogram.bounds[place] + 1e-9


def test_quantile_is_none_without_values_and_the_last_bound_beyond_it():
    histogram = Histogram((1.0, 2.0))
    assert histogram.quantile(0.5) is None
    histogram.observe(1000.0)
    assert histogram.quantile(0.5) == 2.0


def test_several_histograms_are_merged_without_a_loss():
    histograms = Histograms((1.0,))
    histograms.of("a").observe(0.5, 3)
    histograms.of("b").observe(7.0)
    assert histograms.merged().counts == [3, 1]
    assert histograms.merged().sum == 8.5
    assert histograms.of("a") is histograms.of("a")


def test_known_labels_are_zero_from_the_start():
    counts = Counts(("a",), ("b",))
    counts.add("b")
    counts.add("c", n=2)
    assert dict(counts.items()) == {("a",): 0, ("b",): 1, ("c",): 2}
    assert counts.total == 3


def test_counts_can_be_read_while_they_grow():
    counts = Counts(("0",))
    for number, _ in enumerate(counts.items()):
        counts.add(str(number + 1))
    assert counts.total == 1


def test_every_end_of_a_job_is_zero_from_the_start():
    known = dict(Stats().jobs.items())
    assert {outcome for outcome, _ in known} == set(OUTCOMES)
    assert {error for _, error in known if error} == set(ErrorCode)
    assert not any(known.values())


def test_gaps_between_chunks_count_each_by_their_mean():
    stats = Stats()
    operation(stats, stream_s=1.0, chunks=5)
    gaps = stats.chunk_gap.merged()
    assert gaps.count == 4
    assert gaps.sum == pytest.approx(1.0)
    assert stats.first_chunk.merged().sum == 0.5
    assert stats.operations.merged().sum == 2.0


def test_call_without_a_chunk_has_a_duration_alone():
    stats = Stats()
    operation(stats, first_chunk_s=None, chunks=0, error="upstream_timeout")
    operation(stats, chunks=1)
    assert [labels for labels, _ in stats.operations.items()] == [
        ("berlin", "other", "upstream_timeout"),
        ("berlin", "m", ""),
    ]
    assert stats.first_chunk.merged().count == 1
    assert stats.chunk_gap.merged().count == 0


@pytest.mark.parametrize("answers", [True, False])
def test_models_that_anybody_may_name_make_few_labels(answers):
    stats = Stats()
    for number in range(1000):
        operation(stats, f"model-{number}", first_chunk_s=0.1 if answers else None)
    models = {labels[1] for labels, _ in stats.operations.items()}
    assert len(models) == (MODELS_MAX + 1 if answers else 1)
    assert "other" in models
    assert stats.operations.merged().count == 1000


@pytest.mark.parametrize("model", ["", "a prompt in place of a name", 'm"\n', "x" * 65, "ü"])
def test_model_of_an_odd_name_is_another(model):
    models = Models()
    assert models.answered(model) == models.label(model) == "other"


def test_with_a_list_of_models_no_other_is_named():
    models = Models(["a", "b"])
    assert [models.answered(each) for each in ("a", "c", "b", "c")] == ["a", "other", "b", "other"]


def test_delivery_is_a_wait_or_a_reclaim():
    stats = Stats()
    stats.claimed(1, 2.5)
    stats.claimed(1, 0.0)  # a bare message has no time of submission
    stats.claimed(2, 100.0)
    assert stats.queue_wait.count == 1
    assert stats.queue_wait.sum == 2.5
    assert stats.reclaims == 1


def test_snapshot_is_plain_data_with_all_counts():
    stats = Stats()
    operation(stats)
    stats.jobs.add("failed", "bad_chunk")
    stats.logins.add("berlin", "")
    stats.chunks += 5
    fields = json.loads(json.dumps(stats.snapshot()))
    assert fields["chunks"] == 5
    assert fields["jobs"] == {"failed:bad_chunk": 1}
    assert fields["logins"] == {"berlin": 1}
    assert fields["first_chunk_s"]["count"] == 1
    assert fields["queue_wait_s"] == {"count": 0, "sum": 0.0, "p50": None, "p95": None}


def test_tokens_count_by_model_and_kind_and_only_if_they_are_numbers():
    stats = Stats()
    operation(stats, usage={"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13})
    operation(stats, usage={"input_tokens": 5, "output_tokens": True})
    for strange in (
        None,
        {},
        {"prompt_tokens": -1},
        {"prompt_tokens": "9"},
        {"prompt_tokens": 1e3},
    ):
        operation(stats, usage=strange)
    found = {labels: (each.count, each.sum) for labels, each in stats.token_usage.items()}
    assert found == {("berlin", "m", "input"): (2, 15.0), ("berlin", "m", "output"): (1, 3.0)}
    assert stats.snapshot()["token_usage"] == {"input": {"m": 15.0}, "output": {"m": 3.0}}
