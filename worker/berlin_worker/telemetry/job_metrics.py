"""The metrics of upstream calls, jobs and the queue. Pure."""

from typing import Final

from berlin_schemas import names
from berlin_worker.telemetry.metric_spec import MetricSpec, by_name, each, one

_CHAT: Final = "chat"
_GEN_AI: Final = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model")
_DESTINATION: Final = ("messaging_system", "messaging_destination_name")
_MESSAGING: Final = (*_DESTINATION, "messaging_operation_name")

JOB_METRICS: Final = (
    # The upstream. An operation is one call: a job that is retried has several.
    MetricSpec(
        "gen_ai_client_operation_duration_seconds",
        "histogram",
        (*_GEN_AI, "error_type"),
        "Duration of a call of the upstream, a wait for its token included; error_type is a code "
        "of the contract, or empty.",
        lambda s, _: each(s.operations, _CHAT),
    ),
    MetricSpec(
        "gen_ai_client_operation_time_to_first_chunk_seconds",
        "histogram",
        _GEN_AI,
        "From the begin of the call to its first chunk; calls without one are not counted.",
        lambda s, _: each(s.first_chunk, _CHAT),
    ),
    MetricSpec(
        "gen_ai_client_operation_time_per_output_chunk_seconds",
        "histogram",
        _GEN_AI,
        "Between two chunks: counted when the call ends, its mean once for each gap, so that sum "
        "and count are exact.",
        lambda s, _: each(s.chunk_gap, _CHAT),
    ),
    MetricSpec(
        "gen_ai_client_token_usage",
        "histogram",
        (*_GEN_AI, "gen_ai_token_type"),
        "Tokens of a call, input and output, as the upstream has reported them; calls without a "
        "report are not counted.",
        lambda s, _: each(s.token_usage, _CHAT),
    ),
    MetricSpec(
        "worker_logins_total",
        "counter",
        ("gen_ai_provider_name", "error_type"),
        "Logins of this process at the upstream; error_type is a code of the contract, or empty.",
        lambda s, _: each(s.logins),
    ),
    MetricSpec(
        "worker_token_issued_timestamp_seconds",
        "gauge",
        ("gen_ai_provider_name",),
        "When the upstream token in use was given out, in Unix seconds.",
        lambda s, _: by_name(s.token_issued.copy()),
    ),
    # Jobs.
    MetricSpec(
        "worker_jobs_total",
        "counter",
        ("outcome", "error_type"),
        "Jobs that this process has ended, once the store has their last event: completed, "
        "cancelled, or failed with error_type, a code of the contract.",
        lambda s, _: each(s.jobs),
    ),
    MetricSpec(
        "worker_jobs_in_flight",
        "gauge",
        (),
        "Jobs whose lease this process holds.",
        lambda _, r: one(r.jobs_in_flight),
    ),
    MetricSpec(
        "worker_job_slots",
        "gauge",
        (),
        "How many jobs this process runs at most (celery -c).",
        lambda _, r: one(r.job_slots),
    ),
    MetricSpec(
        "worker_retries_total",
        "counter",
        ("error_type",),
        "Attempts that failed and were followed by another in this process.",
        lambda s, _: each(s.retries),
    ),
    MetricSpec(
        "worker_reclaims_total",
        "counter",
        (),
        "Attempts that went on with a job which another worker, or an earlier run, had begun.",
        lambda s, _: one(s.reclaims),
    ),
    MetricSpec(
        "worker_reaped_jobs_total",
        "counter",
        ("state",),
        "Overdue jobs that this process put back on the queue: running (their lease ran out) or "
        "queued (their message may be lost).",
        lambda s, _: each(s.reaped),
    ),
    MetricSpec(
        "worker_leases_lost_total",
        "counter",
        (),
        "Leases that this process had to give up: another attempt owns the job.",
        lambda s, _: one(s.leases_lost),
    ),
    MetricSpec(
        "worker_jobs_quarantined",
        "gauge",
        (),
        "Jobs that have lost their worker so often that they wait to run alone.",
        lambda _, r: one(r.jobs_quarantined),
    ),
    MetricSpec(
        "worker_dead_letters",
        "gauge",
        (),
        "Messages in worker:dead, of the whole fleet.",
        lambda _, r: one(r.dead_letters),
    ),
    # The queue.
    MetricSpec(
        "messaging_client_consumed_messages_total",
        "counter",
        _MESSAGING,
        "Deliveries of jobs that this process has taken up.",
        lambda s, r: [((r.messaging_system, names.QUEUE, "receive"), s.deliveries)],
    ),
    MetricSpec(
        "messaging_process_duration_seconds",
        "histogram",
        (*_MESSAGING, "error_type"),
        "From a delivery to the end of its job here, retries included; deliveries that are dropped "
        "or handed back are not counted.",
        lambda s, r: each(s.processing, r.messaging_system, names.QUEUE, "process"),
    ),
    MetricSpec(
        "worker_deliveries_dropped_total",
        "counter",
        ("reason",),
        "Deliveries of jobs that were not free: over, leased (somebody works on it), unknown, "
        "conflict (its ID is that of another job).",
        lambda s, _: each(s.dropped),
    ),
    MetricSpec(
        "worker_queue_messages",
        "gauge",
        (*_DESTINATION, "state"),
        "Messages of the whole fleet: waiting, and unacknowledged (taken by a worker; Redis only). "
        "No sample where the broker does not answer.",
        lambda _, r: by_name(r.queue, r.messaging_system, names.QUEUE),
    ),
    MetricSpec(
        "worker_queue_wait_seconds",
        "histogram",
        (),
        "From the submission of a job to its first attempt. Of jobs with a record (client.submit): "
        "the message of a bare send_task does not hold the time when it was sent.",
        lambda s, _: one(s.queue_wait),
    ),
)
