"""The status of a worker, computed from two snapshots of its numbers."""

import json

import pytest
from pydantic import ValidationError

from berlin_worker.storage.heartbeat import Identity, Load, Window, WorkerStatus, worker_status
from berlin_worker.telemetry.stats import Stats

pytestmark = pytest.mark.unit

ME = Identity("0123456789ab", "host-1", 42, "1.2.3", 1000.0)


def test_first_reading_has_no_rates() -> None:
    recent = Window().add(5.0, Stats().snapshot())
    assert recent.window_s == 0
    assert recent.chunks_per_s == 0
    assert recent.first_chunk_s is None


def test_rates_and_means_are_of_what_happened_in_the_window() -> None:
    stats, window = Stats(), Window(window_s=10)
    stats.chunks = 1000
    stats.first_chunk.of("berlin", "m").observe(60.0)
    stats.queue_wait.observe(60.0)
    stats.jobs.add("completed", "", n=5)
    window.add(100.0, stats.snapshot())
    stats.chunks += 50
    for first_chunk_s in (1.0, 3.0):
        stats.first_chunk.of("berlin", "m").observe(first_chunk_s)
    stats.queue_wait.observe(0.5)
    stats.loop_lag.observe(0.25)
    stats.jobs.add("failed", "internal")
    recent = window.add(105.0, stats.snapshot())
    assert recent.window_s == 5
    assert recent.chunks_per_s == 10
    assert recent.jobs_per_s == pytest.approx(0.2)
    assert (recent.first_chunks, recent.first_chunk_s) == (2, 2.0)
    assert (recent.waits, recent.queue_wait_s) == (1, 0.5)
    assert recent.loop_lag_s == 0.25


def test_events_before_the_window_are_dropped() -> None:
    stats, window = Stats(), Window(window_s=10)
    for at_s in range(0, 100, 2):
        stats.chunks += 20 if at_s <= 80 else 2
        recent = window.add(float(at_s), stats.snapshot())
    assert recent.window_s == 10
    assert recent.chunks_per_s == 1.0


def test_after_a_pause_the_rate_is_that_of_the_whole_pause() -> None:
    stats, window = Stats(), Window(window_s=10)
    window.add(0.0, stats.snapshot())
    stats.chunks = 100
    assert window.add(50.0, stats.snapshot()).chunks_per_s == 2.0


def test_worker_status_survives_its_way_through_redis() -> None:
    stats = Stats()
    stats.chunks = 7
    stats.jobs.add("completed", "")
    stats.jobs.add("failed", "rate_limited", n=2)
    stats.retries.add("rate_limited")
    stats.logins.add("berlin", "")
    stats.logins.add("berlin", "auth_failed")
    stats.token_issued["berlin"] = 1700.0
    window = Window()
    recent = window.add(0.0, stats.snapshot())
    said = worker_status(ME, Load(3, 10, draining=True), stats.snapshot(), recent)
    assert WorkerStatus.model_validate_json(said.model_dump_json()) == said
    assert said.jobs == {"completed": 1, "failed:rate_limited": 2}
    assert said.retries == {"rate_limited": 1}
    assert said.logins == {"berlin": 1, "berlin:auth_failed": 1}
    assert said.token_issued == {"berlin": 1700.0}
    assert (said.host, said.pid, said.version) == ("host-1", 42, "1.2.3")
    assert (said.in_flight, said.capacity, said.draining) == (3, 10, True)


def test_heartbeat_of_a_later_version_is_read_as_far_as_known() -> None:
    text = '{"v":1,"worker":"w","host":"h","pid":1,"version":"9","started_ts":1.0,"mood":"fine"}'
    assert WorkerStatus.model_validate_json(text).worker == "w"


@pytest.mark.parametrize(
    "fields",
    [
        {"capacity": -5},
        {"in_flight": 10**400},
        {"started_ts": "@inf"},
        {"jobs": {"failed": 10**400}},
        {"token_issued": {"berlin": "@inf"}},
        {"recent": {"chunks_per_s": "@inf"}},
        {"recent": {"chunks_per_s": 1e308}},
        {"recent": {"loop_lag_s": "@NaN"}},
    ],
)
def test_heartbeat_with_an_unsummable_number_is_refused(fields) -> None:
    whole = {"v": 1, "worker": "w", "host": "h", "pid": 1, "version": "9", "started_ts": 1.0}
    text = json.dumps(whole | fields).replace('"@inf"', "1e400").replace('"@NaN"', "NaN")
    with pytest.raises(ValidationError):
        WorkerStatus.model_validate_json(text)


def test_tokens_a_minute_are_those_of_the_window():
    stats, window = Stats(), Window(window_s=10)
    call = {"duration_s": 1.0, "first_chunk_s": 0.5, "stream_s": 0.1, "chunks": 2}
    stats.operation("p", "m", **call, usage={"prompt_tokens": 100, "completion_tokens": 10})
    window.add(0.0, stats.snapshot())
    stats.operation("p", "m", **call, usage={"prompt_tokens": 30, "completion_tokens": 6})
    stats.operation("q", "m", **call, usage={"prompt_tokens": 30})
    rate = window.add(10.0, stats.snapshot()).tokens_per_min
    assert {model: each.model_dump() for model, each in rate.items()} == {
        "m": {"input": 360.0, "output": 36.0}
    }


def test_tokens_beyond_the_bound_of_a_status_count_as_the_bound():
    stats, window = Stats(), Window(window_s=10)
    window.add(0.0, stats.snapshot())
    call = {"duration_s": 1.0, "first_chunk_s": 0.5, "stream_s": 0.1, "chunks": 2}
    usage = {"prompt_tokens": 10**12 - 1, "completion_tokens": 10**12 - 1}
    for _ in range(40):
        stats.operation("p", "m", **call, usage=usage)
    recent = window.add(2.0, stats.snapshot())
    assert recent.tokens_per_min["m"].model_dump() == {"input": 1e15, "output": 1e15}
    said = worker_status(ME, Load(0, None, draining=False), stats.snapshot(), recent)
    assert WorkerStatus.model_validate_json(said.model_dump_json()) == said
