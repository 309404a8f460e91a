"""What a worker tells those who run it: metrics, probes and logs.

``metrics`` renders :class:`worker.stats.Stats` for Prometheus, ``http`` serves it beside the
probes, ``logs`` formats every line of the worker's log.
"""
