"""Every metric of a worker, in one table: what it is called, and where its samples are found.

Names and labels follow OpenTelemetry's conventions for GenAI clients and for messaging, written
as Prometheus writes them (dots become underscores, the unit stands in the name); what these have
no word for begins with ``worker_``.

https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics/
https://opentelemetry.io/docs/specs/semconv/messaging/messaging-metrics/
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from berlin_schemas import names
from berlin_worker.telemetry.gauges import Reading
from berlin_worker.telemetry.stats import Counts, Histogram, Histograms, Labels, Stats

Number = int | float


Samples = Iterable[tuple[Labels, Number | Histogram]]


@dataclass(frozen=True, slots=True)
class Row:
    """One metric: what it is called, and where its samples are found."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: Labels
    help: str
    read: Callable[[Stats, Reading], Samples]


def _one(value: Number | Histogram | None) -> Samples:
    return [] if value is None else [((), value)]


def _each(found: Counts | Histograms, *first: str) -> Samples:
    return [((*first, *labels), value) for labels, value in found.items()]


def _by_name(found: Mapping[str, Number], *first: str) -> Samples:
    return [((*first, name), value) for name, value in found.items()]


_CHAT: Final = "chat"
_GEN_AI: Final = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model")
_DESTINATION: Final = ("messaging_system", "messaging_destination_name")
_MESSAGING: Final = (*_DESTINATION, "messaging_operation_name")

TABLE: Final[tuple[Row, ...]] = (
    # The upstream. An operation is one call: a job that is retried has several.
    Row(
        "gen_ai_client_operation_duration_seconds",
        "histogram",
        (*_GEN_AI, "error_type"),
        "Duration of a call of the upstream, a wait for its token included; error_type is a code "
        "of the contract, or empty.",
        lambda s, _: _each(s.operations, _CHAT),
    ),
    Row(
        "gen_ai_client_operation_time_to_first_chunk_seconds",
        "histogram",
        _GEN_AI,
        "From the begin of the call to its first chunk; calls without one are not counted.",
        lambda s, _: _each(s.first_chunk, _CHAT),
    ),
    Row(
        "gen_ai_client_operation_time_per_output_chunk_seconds",
        "histogram",
        _GEN_AI,
        "Between two chunks: counted when the call ends, its mean once for each gap, so that sum "
        "and count are exact.",
        lambda s, _: _each(s.chunk_gap, _CHAT),
    ),
    Row(
        "worker_logins_total",
        "counter",
        ("gen_ai_provider_name", "error_type"),
        "Logins of this process at the upstream; error_type is a code of the contract, or empty.",
        lambda s, _: _each(s.logins),
    ),
    Row(
        "worker_token_issued_timestamp_seconds",
        "gauge",
        ("gen_ai_provider_name",),
        "When the upstream token in use was given out, in Unix seconds.",
        lambda s, _: _by_name(s.token_issued.copy()),
    ),
    # Jobs.
    Row(
        "worker_jobs_total",
        "counter",
        ("outcome", "error_type"),
        "Jobs that this process has ended, once the store has their last event: completed, "
        "cancelled, or failed with error_type, a code of the contract.",
        lambda s, _: _each(s.jobs),
    ),
    Row(
        "worker_jobs_in_flight",
        "gauge",
        (),
        "Jobs whose lease this process holds.",
        lambda _, r: _one(r.jobs_in_flight),
    ),
    Row(
        "worker_job_slots",
        "gauge",
        (),
        "How many jobs this process runs at most (celery -c).",
        lambda _, r: _one(r.job_slots),
    ),
    Row(
        "worker_retries_total",
        "counter",
        ("error_type",),
        "Attempts that failed and were followed by another in this process.",
        lambda s, _: _each(s.retries),
    ),
    Row(
        "worker_reclaims_total",
        "counter",
        (),
        "Attempts that went on with a job which another worker, or an earlier run, had begun.",
        lambda s, _: _one(s.reclaims),
    ),
    Row(
        "worker_reaped_jobs_total",
        "counter",
        ("state",),
        "Overdue jobs that this process put back on the queue: running (their lease ran out) or "
        "queued (their message may be lost).",
        lambda s, _: _each(s.reaped),
    ),
    Row(
        "worker_leases_lost_total",
        "counter",
        (),
        "Leases that this process had to give up: another attempt owns the job.",
        lambda s, _: _one(s.leases_lost),
    ),
    Row(
        "worker_jobs_quarantined",
        "gauge",
        (),
        "Jobs in quarantine: they lost their worker so often that they wait to run alone.",
        lambda _, r: _one(r.jobs_quarantined),
    ),
    Row(
        "worker_dead_letters",
        "gauge",
        (),
        "Messages in worker:dead, of the whole fleet.",
        lambda _, r: _one(r.dead_letters),
    ),
    # The queue.
    Row(
        "messaging_client_consumed_messages_total",
        "counter",
        _MESSAGING,
        "Deliveries of jobs that this process has taken up.",
        lambda s, r: [((r.messaging_system, names.QUEUE, "receive"), s.deliveries)],
    ),
    Row(
        "messaging_process_duration_seconds",
        "histogram",
        (*_MESSAGING, "error_type"),
        "From a delivery to the end of its job here, retries included; deliveries that are dropped "
        "or handed back are not counted.",
        lambda s, r: _each(s.processing, r.messaging_system, names.QUEUE, "process"),
    ),
    Row(
        "worker_deliveries_dropped_total",
        "counter",
        ("reason",),
        "Deliveries of jobs that were not free: over, leased (somebody works on it), unknown, "
        "conflict (its ID is that of another job).",
        lambda s, _: _each(s.dropped),
    ),
    Row(
        "worker_queue_messages",
        "gauge",
        (*_DESTINATION, "state"),
        "Messages of the whole fleet: waiting, and unacknowledged (taken by a worker; Redis only). "
        "No sample where the broker does not answer.",
        lambda _, r: _by_name(r.queue, r.messaging_system, names.QUEUE),
    ),
    Row(
        "worker_queue_wait_seconds",
        "histogram",
        (),
        "From the submission of a job to its first attempt. Of jobs with a record (client.submit): "
        "the message of a bare send_task does not tell when it was sent.",
        lambda s, _: _one(s.queue_wait),
    ),
    # Events.
    Row(
        "worker_chunks_total",
        "counter",
        (),
        "Chunk events that the store has taken.",
        lambda s, _: _one(s.chunks),
    ),
    Row(
        "worker_events_total",
        "counter",
        (),
        "Events of any type that the store has taken.",
        lambda s, _: _one(s.events),
    ),
    Row(
        "worker_event_bytes_total",
        "counter",
        (),
        "Bytes of the events that the store has taken, as JSON.",
        lambda s, _: _one(s.event_bytes),
    ),
    Row(
        "worker_fenced_writes_total",
        "counter",
        (),
        "Batches of events that the store refused: the job belongs to a newer attempt, or is over.",
        lambda s, _: _one(s.fenced),
    ),
    Row(
        "worker_journal_buffer_bytes",
        "gauge",
        (),
        "Bytes of events that wait for the store.",
        lambda _, r: _one(r.journal_buffer_bytes),
    ),
    Row(
        "worker_journal_buffer_limit_bytes",
        "gauge",
        (),
        "Where the upstream is read no further (WORKER_JOURNAL_BUFFER_BYTES).",
        lambda _, r: _one(r.journal_limit_bytes),
    ),
    Row(
        "worker_journal_full_total",
        "counter",
        (),
        "How often the buffer has reached its limit.",
        lambda s, _: _one(s.journal_full),
    ),
    Row(
        "worker_journal_flush_bytes",
        "histogram",
        (),
        "Bytes of events in one call of the store.",
        lambda s, _: _one(s.flush_bytes),
    ),
    Row(
        "worker_journal_flush_duration_seconds",
        "histogram",
        (),
        "One call of the store, repetitions included.",
        lambda s, _: _one(s.flush),
    ),
    # The process.
    Row(
        "worker_event_loop_lag_seconds",
        "histogram",
        (),
        "How late the event loop wakes a timer, tried several times a second.",
        lambda s, _: _one(s.loop_lag),
    ),
    Row(
        "worker_event_loop_silence_seconds",
        "gauge",
        (),
        "How long the event loop has given no sign of life.",
        lambda _, r: _one(r.loop_silence_s),
    ),
    Row(
        "worker_consumer_silence_seconds",
        "gauge",
        (),
        "How long Celery's consumer has given no sign of life.",
        lambda _, r: _one(r.consumer_silence_s),
    ),
    Row(
        "worker_check_up",
        "gauge",
        ("check",),
        "What the probes look at: 1 where it is as it should be. event_loop and consumer (livez); "
        "broker, redis, token and accepting (readyz).",
        lambda _, r: _by_name(r.checks),
    ),
    Row(
        "worker_draining",
        "gauge",
        (),
        "1 from the shutdown signal on: no new jobs are taken.",
        lambda _, r: _one(int(r.draining)),
    ),
    Row(
        "worker_build_info",
        "gauge",
        ("version", "python_version", "event_loop"),
        "Always 1.",
        lambda _, r: [(r.build, 1)],
    ),
)

PROCESS: Final = (
    ("process_cpu_seconds_total", "counter", "User and system CPU time."),
    ("process_resident_memory_bytes", "gauge", "Resident memory."),
    ("process_virtual_memory_bytes", "gauge", "Virtual memory."),
    ("process_open_fds", "gauge", "Open files and sockets."),
    ("process_max_fds", "gauge", "How many it may open."),
    ("process_start_time_seconds", "gauge", "When the process started, in Unix seconds."),
)
"""Prometheus' own names for every process (Linux only), by ``prometheus_client``."""
