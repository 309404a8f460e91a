"""The metrics of the event journal and of the process. Pure."""

from typing import Final

from berlin_worker.telemetry.metric_spec import MetricSpec, by_name, each, one

PROCESS_METRICS: Final = (
    # Events.
    MetricSpec(
        "worker_chunks_total",
        "counter",
        (),
        "Chunk events that the store has taken.",
        lambda s, _: one(s.chunks),
    ),
    MetricSpec(
        "worker_events_total",
        "counter",
        (),
        "Events of any type that the store has taken.",
        lambda s, _: one(s.events),
    ),
    MetricSpec(
        "worker_event_bytes_total",
        "counter",
        (),
        "Bytes of the events that the store has taken, as JSON.",
        lambda s, _: one(s.event_bytes),
    ),
    MetricSpec(
        "worker_fenced_writes_total",
        "counter",
        (),
        "Batches of events that the store refused: the job belongs to a newer attempt, or is over.",
        lambda s, _: one(s.fenced),
    ),
    MetricSpec(
        "worker_journal_buffer_bytes",
        "gauge",
        (),
        "Bytes of events that wait for the store.",
        lambda _, r: one(r.journal_buffer_bytes),
    ),
    MetricSpec(
        "worker_journal_buffer_limit_bytes",
        "gauge",
        (),
        "Where the upstream is read no further (WORKER_JOURNAL_BUFFER_BYTES).",
        lambda _, r: one(r.journal_limit_bytes),
    ),
    MetricSpec(
        "worker_journal_full_total",
        "counter",
        (),
        "How often the buffer has reached its limit.",
        lambda s, _: one(s.journal_full),
    ),
    MetricSpec(
        "worker_journal_flush_bytes",
        "histogram",
        (),
        "Bytes of events in one call of the store.",
        lambda s, _: one(s.flush_bytes),
    ),
    MetricSpec(
        "worker_journal_flush_duration_seconds",
        "histogram",
        (),
        "One call of the store, repetitions included.",
        lambda s, _: one(s.flush),
    ),
    MetricSpec(
        "worker_store_call_duration_seconds",
        "histogram",
        ("node",),
        "What was sent together to one node of a Redis Cluster, until all its replies.",
        lambda s, _: each(s.store_nodes.calls),
    ),
    MetricSpec(
        "worker_store_errors_total",
        "counter",
        ("node", "error_type"),
        "Calls of a server of the event store that failed, or that it redirected to another node.",
        lambda s, _: each(s.store_nodes.errors),
    ),
    MetricSpec(
        "worker_store_connections_total",
        "counter",
        ("node",),
        "Connections of the event store's scripts that were made, reconnects included.",
        lambda s, _: each(s.store_nodes.connections),
    ),
    # The process.
    MetricSpec(
        "worker_event_loop_lag_seconds",
        "histogram",
        (),
        "How late the event loop wakes a timer, tried several times a second.",
        lambda s, _: one(s.loop_lag),
    ),
    MetricSpec(
        "worker_event_loop_heartbeat_age_seconds",
        "gauge",
        (),
        "How long the event loop has given no sign of life.",
        lambda _, r: one(r.loop_age_s),
    ),
    MetricSpec(
        "worker_consumer_heartbeat_age_seconds",
        "gauge",
        (),
        "How long Celery's consumer has given no sign of life.",
        lambda _, r: one(r.consumer_age_s),
    ),
    MetricSpec(
        "worker_check_up",
        "gauge",
        ("check",),
        "Conditions of the probes: 1 if met, else 0. event_loop and consumer (livez); "
        "broker, redis, token and accepting (readyz).",
        lambda _, r: by_name(r.checks),
    ),
    MetricSpec(
        "worker_draining",
        "gauge",
        (),
        "1 from the shutdown signal on: no new jobs are taken.",
        lambda _, r: one(int(r.draining)),
    ),
    MetricSpec(
        "worker_build_info",
        "gauge",
        ("version", "python_version", "event_loop"),
        "Always 1.",
        lambda _, r: [(r.build, 1)],
    ),
)
