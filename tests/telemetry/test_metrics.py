"""The metrics as Prometheus reads them: every name of the table, and no label without a bound."""

import re

import pytest
from prometheus_client import generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse

from berlin_schemas import ErrorCode
from berlin_worker.telemetry.gauges import Gauges
from berlin_worker.telemetry.metric_specs import PROCESS, TABLE
from berlin_worker.telemetry.metrics import registry, table
from berlin_worker.telemetry.stats import Stats
from berlin_worker.telemetry.store_nodes import NODES_MAX

pytestmark = pytest.mark.unit

READING = Gauges(
    messaging_system="rabbitmq",
    jobs_in_flight=3,
    job_slots=1000,
    jobs_quarantined=1,
    queue={"waiting": 7, "unacknowledged": 2},
    dead_letters=4,
    journal_buffer_bytes=5,
    journal_limit_bytes=6,
    loop_age_s=0.1,
    consumer_age_s=0.2,
    checks={"broker": True, "token": False},
    draining=True,
    build=("1.2.3", "3.11.7", "uvloop"),
)


def busy() -> Stats:
    """Return numbers each of which has been added to."""
    stats = Stats()
    for code in ("", *ErrorCode):
        stats.operation(
            "berlin", "m", duration_s=1, first_chunk_s=0.1, stream_s=1, chunks=9, error=str(code)
        )
        stats.processing.of(str(code)).observe(1.0)
        stats.logins.add("berlin", str(code))
    stats.token_usage.of("berlin", "m", "input").observe(7)
    stats.token_issued["berlin"] = 1.8e9
    stats.claimed(1, 3.0)
    for histogram in (stats.flush, stats.flush_bytes, stats.loop_lag):
        histogram.observe(1.0)
    stats.store_nodes.called("redis-1:6379", 0.1)
    stats.store_nodes.failed("redis-1:6379", ConnectionError())
    stats.store_nodes.connected("redis-1:6379")
    return stats


def samples(stats: Stats, reading: Gauges = READING) -> dict[tuple[str, frozenset[str]], float]:
    text = generate_latest(registry(stats, lambda: reading)).decode()
    return {
        (sample.name, frozenset(f"{k}={v}" for k, v in sample.labels.items() if k != "le")): (
            sample.value
        )
        for family in parse(text)
        for sample in family.samples
        if not sample.name.endswith("_bucket")
    }


@pytest.mark.parametrize("stats", [Stats(), busy()], ids=["new", "busy"])
def test_output_parses_and_has_every_metric_of_the_table_with_its_type(stats):
    families = {
        family.name: family
        for family in parse(generate_latest(registry(stats, lambda: READING)).decode())
    }
    for name, kind, labels in [
        *((row.name, row.kind, set(row.labels)) for row in TABLE),
        *((name, kind, set()) for name, kind, _ in PROCESS),
    ]:
        family = families.pop(name.removesuffix("_total"))
        assert family.type == kind, name
        assert {tuple(sorted(s.labels.keys() - {"le"})) for s in family.samples} <= {
            tuple(sorted(labels))
        }, name
    assert families == {}


def test_busy_worker_has_a_sample_of_each():
    named = {name for name, _ in samples(busy())}
    for row in TABLE:
        assert {row.name, f"{row.name}_count"} & named, row.name


def test_output_is_valid_openmetrics():
    text = openmetrics.generate_latest(registry(busy(), lambda: READING)).decode()
    assert len(list(parse_openmetrics(text))) == len(TABLE) + len(PROCESS)


def test_unknown_value_has_no_sample():
    named = {name for name, _ in samples(Stats(), Gauges())}
    assert named.isdisjoint(
        {"worker_queue_messages", "worker_dead_letters", "worker_job_slots", "worker_check_up"}
    )
    assert "worker_jobs_in_flight" in named


def test_buckets_are_cumulative_and_end_with_the_count():
    text = generate_latest(registry(busy(), lambda: READING)).decode()
    found = re.findall(r'worker_queue_wait_seconds_bucket\{le="([^"]+)"\} ([\d.]+)', text)
    assert [float(count) for _, count in found] == sorted(float(count) for _, count in found)
    assert found[-1] == ("+Inf", "1.0")
    assert dict(found)["2.56"] == "0.0"
    assert dict(found)["5.12"] == "1.0"


def test_values_have_the_labels_of_the_conventions():
    found = samples(busy())
    assert found[
        "gen_ai_client_operation_time_per_output_chunk_seconds_count",
        frozenset(
            {
                "gen_ai_operation_name=chat",
                "gen_ai_provider_name=berlin",
                "gen_ai_request_model=m",
            }
        ),
    ] == 8 * (1 + len(ErrorCode))
    queue = {"messaging_system=rabbitmq", "messaging_destination_name=prompts"}
    assert found["worker_queue_messages", frozenset(queue | {"state=waiting"})] == 7
    assert found["worker_check_up", frozenset({"check=token"})] == 0


def test_nodes_are_bounded_and_the_rest_is_counted_together():
    stats = Stats()
    for number in range(NODES_MAX + 10):
        stats.store_nodes.connected(f"redis-{number}:6379")
        stats.store_nodes.failed(f"redis-{number}:6379", TimeoutError())
        stats.store_nodes.called(f"redis-{number}:6379", 0.1)
    found = samples(stats)
    assert sum(name == "worker_store_connections_total" for name, _ in found) == NODES_MAX + 1
    assert found["worker_store_connections_total", frozenset({"node=other"})] == 10
    first = frozenset({"node=redis-0:6379", "error_type=TimeoutError"})
    assert found["worker_store_errors_total", first] == 1


def test_names_are_of_the_form_that_prometheus_asks_for():
    for row in TABLE:
        assert re.fullmatch(r"(gen_ai|messaging|worker)_[a-z_]+", row.name), row.name
        assert row.name.endswith("_total") == (row.kind == "counter"), row.name
        assert row.help[0].isupper() or row.help[0].isdigit(), row.name
        assert row.help.endswith("."), row.name
        if row.kind == "histogram":
            assert row.name.endswith(("_seconds", "_bytes", "_token_usage")), row.name


def test_printed_table_has_a_line_for_each():
    lines = table().splitlines()
    assert len(lines) == 2 + len(TABLE) + len(PROCESS)
    for line, row in zip(lines[2:], TABLE, strict=False):
        assert line.startswith(f"| `{row.name}` | {row.kind} |")
        assert line.count("|") == 5
