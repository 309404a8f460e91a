"""Every metric of a worker, in one table: its name, and how its samples are read.

Names and labels follow OpenTelemetry's conventions for GenAI clients and for messaging, in the
spelling of Prometheus: underscores for dots, and the unit in the name. A metric that those
conventions do not name begins with ``worker_``.

https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics/
https://opentelemetry.io/docs/specs/semconv/messaging/messaging-metrics/
"""

from typing import Final

from berlin_worker.telemetry.job_metrics import JOB_METRICS
from berlin_worker.telemetry.metric_spec import MetricSpec
from berlin_worker.telemetry.process_metrics import PROCESS_METRICS

TABLE: Final[tuple[MetricSpec, ...]] = (*JOB_METRICS, *PROCESS_METRICS)

PROCESS: Final = (
    ("process_cpu_seconds_total", "counter", "User and system CPU time."),
    ("process_resident_memory_bytes", "gauge", "Resident memory."),
    ("process_virtual_memory_bytes", "gauge", "Virtual memory."),
    ("process_open_fds", "gauge", "Open files and sockets."),
    ("process_max_fds", "gauge", "How many it may open."),
    ("process_start_time_seconds", "gauge", "When the process started, in Unix seconds."),
)
"""Prometheus' own names for every process (Linux only), by ``prometheus_client``."""
