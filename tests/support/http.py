"""Requests to the HTTP port of a worker, as probes and Prometheus send them."""

import json
import re
import urllib.error
import urllib.request
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.support.workers import WorkerProcess

PORT = {"WORKER_HTTP_PORT": "0", "WORKER_HTTP_HOST": "127.0.0.1"}
"""Settings of a worker that serves on a free port."""
_TIMEOUT_S = 20.0

Samples = dict[str, dict[frozenset[str], float]]


def url_of(worker: WorkerProcess) -> str:
    """Return the URL of a worker's HTTP port, which its log has."""
    found = re.search(r"http://127\.0\.0\.1:\d+", worker.log)
    assert found is not None, "the log of the worker does not have its port"
    return found[0]


def get(url: str, **headers: str) -> tuple[int, str, str]:
    """Return status, content type and body."""
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.read().decode()


def failing(url: str) -> tuple[int, set[str]]:
    """Return the status of a probe, and the checks that failed."""
    status, _, body = get(url)
    checks: dict[str, dict[str, Any]] = json.loads(body)["checks"]
    return status, {name for name, check in checks.items() if not check["ok"]}


def scrape(url: str) -> Samples:
    """Return the samples of each metric, by their labels (``name=value``)."""
    found: Samples = {}
    for family in text_string_to_metric_families(get(f"{url}/metrics")[2]):
        for sample in family.samples:
            labels = frozenset(f"{name}={value}" for name, value in sample.labels.items())
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


def value(samples: Samples, name: str, **labels: str) -> float:
    """Return the sum of all samples of a metric that have these labels."""
    wanted = {f"{label}={each}" for label, each in labels.items()}
    return sum(sample for found, sample in samples.get(name, {}).items() if wanted <= found)
