"""What a worker tells those who run it: metrics, probes, logs and traces.

``metrics`` renders :class:`berlin_worker.stats.Stats` for Prometheus, ``http`` serves it beside the
probes, ``logs`` formats every line of the worker's log, ``tracing`` is what those who run jobs
know of traces, ``otel`` makes them, and ``exporting`` sends them.
"""
