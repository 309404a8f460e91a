"""The OpenAPI document, and the gateway tried against it by schemathesis."""

import asyncio
import queue
import threading
from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.core import NOT_SET
from schemathesis.specs.openapi.checks import negative_data_rejection

from berlin_worker.gateway.openapi import document
from berlin_worker.testing import InProcessWorker
from tests.gateway.conftest import Harness, serve

pytestmark = [
    pytest.mark.integration,
    # schemathesis uses it; the examples still vary as Hypothesis decides.
    pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies"),
]

EXAMPLES = 20
"""Few, since each is a request; 500 of them found nothing more."""

schema = schemathesis.openapi.from_dict(document())


@pytest.fixture(scope="module")
def harness(worker: InProcessWorker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    """A gateway in a thread of its own, for requests that block."""
    place, ready = tmp_path_factory.mktemp("gateway"), queue.SimpleQueue[Harness]()
    loop, stop = asyncio.new_event_loop(), asyncio.Event()

    async def run() -> None:
        async with serve(worker.redis_url, place) as harness:
            ready.put(harness)
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    try:
        yield ready.get(timeout=60)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(60)
        loop.close()


@schema.parametrize()
@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), deadline=None)
def test_gateway_answers_as_documented(case: schemathesis.Case, harness: Harness) -> None:
    if case.query is not None and "wait_s" in case.query:
        case.query["wait_s"] = 0
    headers = {"Authorization": f"Bearer {harness.keys['acme']}"}
    response = case.call(base_url=harness.url, headers=headers)
    code = response.json()["error"]["code"] if response.status_code in {400, 422} else ""
    if code == "idempotency_key_reused" or (code == "invalid_job" and case.body is not NOT_SET):
        # Another example has used this job ID or key; or the job breaks a rule that JSON Schema
        # cannot express, such as that content may be missing beside tool calls alone.
        assert case.method == "POST"
    else:
        # HTTP strips the spaces of a header, so an invalid one may arrive as a valid one.
        stripped = "Idempotency-Key" in case.headers
        case.validate_response(
            response, excluded_checks=[negative_data_rejection] if stripped else None
        )
