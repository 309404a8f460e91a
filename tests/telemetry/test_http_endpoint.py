"""The metrics, probes and log of a real worker."""

import json
import signal
from typing import Any

import pytest

from berlin_worker.client import Client
from berlin_worker.telemetry.metric_specs import TABLE
from tests.support.faulty_provider import installed
from tests.support.fleet import QUICK_LEASES, Fleet, prompt
from tests.support.http import PORT, failing, get, scrape, url_of, value
from tests.support.proxy import TcpProxy
from tests.support.workers import wait_until

pytestmark = pytest.mark.integration

PROMPT = "the-secret-prompt"
QUIET = {"PYTHONWARNINGS": "ignore"}
"""Celery warns of root before there is a log."""


def jobs_of(fleet: Fleet) -> dict[str, list[str]]:
    """IDs of jobs by how they are to end."""
    ends = {
        "completed": [prompt(f"{PROMPT} {n}") for n in range(10)],
        "failed:upstream_error": [prompt(f"[[status:503]] {PROMPT}")] * 2,
        "failed:bad_chunk": [prompt(f"[[garbage:1]] {PROMPT}", on_interrupt="fail")],
        "failed:invalid_job": [prompt(PROMPT, no_such_field=1), prompt(PROMPT, options={"x": 1})],
    }
    return {end: [fleet.send(job) for job in jobs] for end, jobs in ends.items()}


def test_totals_are_those_of_the_logs(fleet):
    with fleet.worker("-c", "20", WORKER_RETRY_BASE_S="0.01", **PORT) as worker:
        sent = jobs_of(fleet)
        with Client(fleet.env["REDIS_URL"]) as client:
            submitted = [client.submit(prompt(PROMPT, model=f"model {n}")) for n in range(30)]
        sent["completed"] += submitted
        job_ids = [job_id for ids in sent.values() for job_id in ids]
        for job_id in job_ids:
            fleet.ended(job_id)
        url = url_of(worker)
        # The last reply of the store is still on its way to the worker.
        wait_until(lambda: value(scrape(url), "worker_jobs_total") == len(job_ids), "all counted")
        found = scrape(url)
        page = get(f"{url}/metrics")[2]

    events = [event for job_id in job_ids for event in fleet.log(job_id)]
    types = [json.loads(event)["type"] for event in events]
    assert value(found, "worker_events_total") == len(events)
    assert value(found, "worker_event_bytes_total") == sum(map(len, events))
    assert value(found, "worker_chunks_total") == types.count("chunk")
    for end, ids in sent.items():
        outcome, _, error = end.partition(":")
        counted = value(found, "worker_jobs_total", outcome=outcome, error_type=error)
        assert counted == len(ids), end
    assert value(found, "messaging_client_consumed_messages_total") == len(job_ids)
    assert value(found, "messaging_process_duration_seconds_count") == len(job_ids)
    retried = types.count("reset") + types.count("started") - types.count("completed") - 3
    assert value(found, "worker_retries_total") == retried > 0
    assert value(found, "worker_logins_total", error_type="") == 1
    assert value(found, "worker_queue_wait_seconds_count") <= len(submitted)
    assert value(found, "worker_queue_wait_seconds_count") > 0
    assert value(found, "worker_jobs_in_flight") == 0
    assert value(found, "worker_check_up") == 6

    for row in TABLE:
        assert f"# TYPE {row.name.removesuffix('_total')}" in page, row.name
    for secret in (PROMPT, fleet.upstream.account, fleet.upstream.password, "model 1"):
        assert secret not in page
    models = {
        label
        for labels in found["gen_ai_client_operation_duration_seconds_count"]
        for label in labels
        if label.startswith("gen_ai_request_model=")
    }
    assert models == {"gen_ai_request_model=gpt-3.5-turbo", "gen_ai_request_model=other"}


def test_blocked_event_loop_is_not_alive_until_it_runs_again(fleet, tmp_path):
    fleet.env |= installed(tmp_path) | QUICK_LEASES
    deed = {"act": "block", "block_s": 6.0, "once": str(tmp_path / "done")}
    with fleet.worker(**PORT) as worker:
        url = url_of(worker)
        assert failing(f"{url}/livez") == (200, set())
        job_id = fleet.send(prompt("a b c d", provider="faulty", options=deed))
        wait_until(lambda: failing(f"{url}/livez") == (503, {"event_loop"}), "the probe reports it")
        blocked = scrape(url)
        assert value(blocked, "worker_event_loop_heartbeat_age_seconds") > 1
        assert value(blocked, "worker_check_up", check="event_loop") == 0
        wait_until(lambda: failing(f"{url}/livez") == (200, set()), "it goes on")
        fleet.ended(job_id)
        assert value(scrape(url), "worker_event_loop_lag_seconds_sum") > 3


def test_without_redis_a_worker_is_alive_not_ready_and_ready_again(fleet):
    with TcpProxy.of(fleet.env["REDIS_URL"]) as proxy:
        fleet.env["REDIS_URL"] = proxy.url_of(fleet.env["REDIS_URL"])
        with fleet.worker(**PORT) as worker:
            url = url_of(worker)
            wait_until(lambda: failing(f"{url}/readyz") == (200, set()), "ready")
            proxy.refuse()
            proxy.cut()
            away = {"broker", "redis"}
            wait_until(
                lambda: failing(f"{url}/readyz")[1] - {"token"} == away, "the probe reports it"
            )
            assert failing(f"{url}/livez") == (200, set())
            assert "worker_queue_messages" not in scrape(url)
            proxy.heal()
            wait_until(lambda: failing(f"{url}/readyz") == (200, set()), "ready again")
        proxy.heal()


def test_login_that_fails_is_not_ready(fleet):
    with fleet.worker(BERLIN_PASSWORD="another", **PORT) as worker:
        url = url_of(worker)
        assert failing(f"{url}/readyz") == (200, set())
        assert value(scrape(url), "worker_logins_total") == 0
        fleet.ended(fleet.send(prompt("x")))
        wait_until(lambda: failing(f"{url}/readyz") == (503, {"token"}), "the probe reports it")
        assert "auth_failed" in get(f"{url}/readyz")[2]
        assert value(scrape(url), "worker_logins_total", error_type="auth_failed") >= 1


def test_draining_worker_is_alive_and_not_ready(fleet):
    with fleet.worker(**PORT) as worker:
        url = url_of(worker)
        job_id = fleet.send(prompt("[[endless]] [[delay:0.05]] x"))
        fleet.running(job_id)
        worker.send_signal(signal.SIGTERM)
        wait_until(lambda: failing(f"{url}/readyz") == (503, {"accepting"}), "the probe reports it")
        assert failing(f"{url}/livez") == (200, set())
        found = scrape(url)
        assert value(found, "worker_draining") == 1
        assert value(found, "worker_jobs_in_flight") == 1
        fleet.redis.hset(f"job:{{{job_id}}}:state", "cancel", 1)
        fleet.redis.publish("job-control", json.dumps({"cancel": job_id}))
        assert worker.wait() == 0


def test_every_line_is_json_and_each_job_has_one_on_its_end(fleet):
    fleet.env |= QUIET
    with fleet.worker("-c", "5", WORKER_MAX_ATTEMPTS="2", WORKER_RETRY_BASE_S="0.01") as worker:
        failed = fleet.send(prompt(f"[[status:503]] {PROMPT}", tenant="acme"))
        refused = fleet.send(prompt(PROMPT, no_such_field=1))
        unknown = fleet.send(prompt(PROMPT, provider="nobody", tenant="acme"))
        completed = fleet.send(prompt(f"{PROMPT} b c", tenant="acme", model="m"))
        cancelled = fleet.send(prompt(f"[[endless]] [[delay:0.05]] {PROMPT}"))
        fleet.running(cancelled)
        with Client(fleet.env["REDIS_URL"]) as client:
            client.cancel(cancelled)
        for job_id in (failed, refused, unknown, completed, cancelled):
            fleet.ended(job_id)
        worker.stop()
    log: list[dict[str, Any]] = [json.loads(line) for line in worker.log.splitlines()]
    assert all({"timestamp", "level", "event", "logger"} <= line.keys() for line in log)
    assert any("ready." in line["event"] for line in log)
    assert any("Warm shutdown" in line["event"] for line in log)
    [retried] = [line for line in log if line["logger"] == "berlin_worker.jobs.attempts"]
    assert (retried["job_id"], retried["attempt"]) == (failed, 1)
    assert not [line for line in log if "generate" in line["event"]], "Celery's lines on jobs"
    lines = [line for line in log if line["event"] == "job ended"]
    ends = {line["job_id"]: line for line in lines}
    assert len(ends) == len(lines) == 5
    shown = ("status", "error_code", "reason", "tenant", "provider", "attempts")
    assert {job_id: tuple(line[name] for name in shown) for job_id, line in ends.items()} == {
        failed: ("failed", "upstream_error", "HTTP 503", "acme", "berlin", 2),
        refused: ("failed", "invalid_job", None, None, None, 1),
        unknown: ("failed", "invalid_job", None, "acme", "nobody", 1),
        completed: ("completed", None, "stop", "acme", "berlin", 1),
        cancelled: ("cancelled", None, "requested", None, "berlin", 1),
    }
    timings = fleet.events(completed)[-1]["timings"]
    assert {name: ends[completed][name] for name in timings} == {
        **timings,
        "total_ms": ends[completed]["total_ms"],  # measured a moment later
    }
    assert (ends[completed]["model"], ends[completed]["level"]) == ("m", "info")
    assert ends[completed]["chunks"] == len(fleet.events(completed)) - 2
    assert ends[failed]["level"] == "warning"
    for secret in (PROMPT, fleet.upstream.account, fleet.upstream.password):
        assert secret not in worker.log


def test_console_format_has_lines_and_the_banner(fleet):
    with fleet.worker(WORKER_LOG_FORMAT="console") as worker:
        job_id = fleet.send(prompt(PROMPT, no_such_field=1))
        fleet.ended(job_id)
        worker.wait_for_log("failed with invalid_job")
    assert "[tasks]" in worker.log
    [line] = [line for line in worker.log.splitlines() if "failed with" in line]
    assert not line.startswith("{")
    assert line.count(job_id) == 1


def test_used_port_ends_the_worker_with_one_line(fleet):
    with fleet.worker(**PORT) as first:
        port = url_of(first).rpartition(":")[2]
        second = fleet.worker(**(PORT | {"WORKER_HTTP_PORT": port}))
        second._wait = False
        with second:
            assert second.wait() != 0
    refusals = [line for line in second.log.splitlines() if "cannot start" in line]
    assert len(refusals) == 1
    assert "WORKER_HTTP_PORT" in refusals[0]
