"""Probes and metrics with RabbitMQ as the broker: no sample of an unreported value."""

import pytest
from celery import Celery

from tests.support.fleet import Fleet, prompt
from tests.support.http import PORT, failing, scrape, url_of, value
from tests.support.needed import needed
from tests.support.rabbitmq import RabbitProcess, find_rabbitmq
from tests.support.workers import wait_until

pytestmark = pytest.mark.integration


def test_queue_is_counted_and_a_missing_broker_is_not_ready(fleet: Fleet) -> None:
    binary = needed(find_rabbitmq(), "rabbitmq-server")
    with (
        RabbitProcess(binary) as rabbit,
        Celery(broker=rabbit.url, set_as_current=False) as fleet.app,
    ):
        fleet.env["CELERY_BROKER_URL"] = rabbit.url
        with fleet.worker("-c", "1", **PORT) as worker:
            url = url_of(worker)
            assert failing(f"{url}/readyz") == (200, set())
            for _ in range(4):
                fleet.send(prompt("[[endless]] [[delay:0.05]] x"))
            # One runs, and one is with the worker already.
            counted = {"messaging_system": "rabbitmq", "state": "waiting"}
            wait_until(lambda: value(scrape(url), "worker_queue_messages", **counted) > 0, "waits")
            found = scrape(url)
            assert value(found, "worker_jobs_in_flight") == 1
            assert len(found["worker_queue_messages"]) == 1
            rabbit.kill()
            wait_until(
                lambda: failing(f"{url}/readyz") == (503, {"broker"}), "the probe reports it"
            )
            assert failing(f"{url}/livez") == (200, set())
            assert "worker_queue_messages" not in scrape(url)
