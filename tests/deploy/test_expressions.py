"""Every expression of alerts and dashboard against the metrics of real workers."""

import asyncio
import subprocess
import urllib.request

import aiohttp
import pytest
import yaml

from berlin_worker.client import Client
from berlin_worker.embedded.redis_server import free_port
from berlin_worker.embedded.upstream import upstream_in_thread
from berlin_worker.gateway.server import open_gateway, serving
from berlin_worker.settings import Settings
from tests.support.fleet import QUICK_LEASES, Fleet, prompt
from tests.support.manifests import tool
from tests.support.promql import Samples, expressions, selectors_of
from tests.support.workers import ROOT, wait_until

pytestmark = pytest.mark.integration

EXPRESSIONS = expressions()


@pytest.fixture(scope="module")
def output(redis_server) -> str:
    """Return metrics of a worker after completed, failed and recovered jobs."""
    url = redis_server.url.removesuffix("/0") + "/2"
    with upstream_in_thread(reply="one two three") as upstream:
        fleet = Fleet(url, upstream)
        fleet.redis.flushdb()
        port = free_port()
        settings = {"WORKER_HTTP_PORT": f"{port}", "WORKER_RETRY_BASE_S": "0.01", **QUICK_LEASES}
        with fleet.worker("-c", "4", **QUICK_LEASES) as lost:
            orphan = fleet.send(prompt("[[stall:1*1]]"))
            fleet.running(orphan)
            lost.kill()
        fleet.redis.delete(*fleet.redis.scan_iter("token:*"))  # so that the next one logs in
        with fleet.worker("-c", "4", **settings), Client(url) as client:
            assert fleet.ended(orphan)[-1]["type"] == "completed"
            assert fleet.ended(client.submit("hello"))[-1]["type"] == "completed"
            reported = fleet.ended(client.submit("hello", provider="echo"))[-1]
            assert reported["usage"]["total_tokens"] == 2
            assert fleet.ended(fleet.send(prompt("[[status:503]]")))[-1]["type"] == "failed"
            # A call is counted when it ends, a timer when it has rung.
            wait_until(lambda: scrape(port).count('error_type="upstream_error"') > 2, "calls")
            return scrape(port)


@pytest.fixture(scope="module")
def samples(output) -> Samples:
    made = Samples()
    made.add(output)
    made.add(asyncio.run(metrics_of_gateway()))
    return made


async def metrics_of_gateway() -> str:
    """Return the metrics of a gateway without a Redis, after some requests."""
    settings = Settings(redis_url=f"redis://127.0.0.1:{free_port()}/0")
    gateway = open_gateway(settings, "127.0.0.1", warn=lambda _: None)
    async with (
        serving(gateway, "127.0.0.1", 0) as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}/") as http,
    ):
        for path, status in {"livez": 200, "readyz": 503, "v1/jobs": 503}.items():
            async with http.get(path) as reply:
                assert reply.status == status
        async with http.get("metrics") as reply:
            return await reply.text()


def scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as reply:
        return str(reply.read().decode())


def test_every_metric_and_label_of_an_expression_is_exposed_by_a_real_worker(samples):
    missing = {each.where: list(samples.missing(each.text)) for each in EXPRESSIONS}
    assert not {where: what for where, what in missing.items() if what}


def test_series_of_the_alerts_tests_are_those_that_a_worker_exposes(samples):
    cases = yaml.safe_load((ROOT / "tests" / "deploy" / "alerts.yml").read_text())
    series = {each["series"] for case in cases["tests"] for each in case["input_series"]}
    # The bounds of buckets are the tests' own, and so are the model's name and what went wrong.
    own = {"le", "gen_ai_request_model", "error_type"}
    for text in series:
        for name, matchers in selectors_of(text):
            kept = ", ".join(f'{k}{op}"{v}"' for k, op, v in matchers if k not in own)
            assert list(samples.missing(f"{name}{{{kept}}}")) == []


def test_prometheus_can_read_every_expression(tmp_path):
    rules = [{"record": f"r:{n}", "expr": each.text} for n, each in enumerate(EXPRESSIONS)]
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}))
    done = subprocess.run(
        [tool("promtool"), "check", "rules", path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_accepts_the_metrics_of_a_worker(output):
    checked = subprocess.run(
        [tool("promtool"), "check", "metrics"],
        input=output, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('sum by (le) (rate(a_bucket{x="1"}[5m])) > 30', ["a_bucket"]),
        ("max(a) > max(a offset 15m)", ["a", "a"]),
        ("a / on () group_left () sum(b) unless on (instance) c == 1", ["a", "b", "c"]),
        ("time() - max by (x) (a)", ["a"]),
    ],
)
def test_names_of_an_expression_are_found(text, names):
    assert [name for name, _ in selectors_of(text)] == names


def test_metric_that_no_worker_exposes_is_noticed():
    samples = Samples({"a": [{"state": "waiting"}]})
    assert list(samples.missing('sum by (state) (a{state="waiting"})')) == []
    assert list(samples.missing("b"))
    assert list(samples.missing('a{state="gone"}'))
    assert list(samples.missing('a{other="waiting"}'))
    assert list(samples.missing("sum by (other) (a)"))
