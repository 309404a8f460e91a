"""Metrics, probes, logs and traces of a worker."""
