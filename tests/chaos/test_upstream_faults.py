"""The upstream fails: each job ends by the contract, and its readers see nothing else.

All cases of the table run at once, on two workers, among jobs without a fault.
"""

import json
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tests.support.chaos import size
from tests.support.workers import wait_until

MODES = ("restart", "fail", "keep")


@dataclass(frozen=True)
class Case:
    """A fault of the upstream, and how its job ends in each of ``MODES``.

    ``attempts`` is for ``restart``. The other modes have as many if nothing was published before
    the fault, else one. ``chunks`` are published before the fault.
    """

    faults: str
    restart: str
    fail: str = ""
    keep: str = ""
    attempts: int = 2
    chunks: int = 0
    fields: dict[str, Any] = field(default_factory=dict)

    def ending(self, mode: str) -> str:
        """Return how the job ends; by default all modes end alike."""
        return getattr(self, mode) or self.restart

    def tries(self, mode: str) -> int:
        """Return how many attempts it takes."""
        return self.attempts if mode == "restart" or not self.chunks else 1


SHORT = {"idle_timeout_s": 1, "first_chunk_timeout_s": 5}
WAIT_S = 3
DONE, KEPT = "completed", "completed:interrupted"

CASES = {
    "cut once": Case("[[cut:5*1]]", DONE, "failed:upstream_error", KEPT, chunks=5),
    "cut for ever": Case("[[cut:5]]", "failed:upstream_error", keep=KEPT, attempts=3, chunks=5),
    "half a line at the end": Case("[[half:5*1]]", DONE, "failed:upstream_error", KEPT, chunks=5),
    "gzip without its end": Case(
        "[[unfinished:5*1]]", DONE, "failed:upstream_error", KEPT, chunks=5
    ),
    "stalled": Case("[[stall:5*1]]", DONE, "failed:upstream_timeout", KEPT, chunks=5, fields=SHORT),
    "stalled for ever": Case(
        "[[stall:5]]", "failed:upstream_timeout", keep=KEPT, attempts=3, chunks=5, fields=SHORT
    ),
    "no first chunk": Case("[[mute*1]]", DONE, fields=SHORT),
    "no first chunk, ever": Case("[[mute]]", "failed:upstream_timeout", attempts=3, fields=SHORT),
    "connection closed": Case("[[drop*1]]", DONE),
    "500 once": Case("[[status:500*1]]", DONE),
    "503 twice": Case("[[status:503*2]]", DONE, attempts=3),
    "500 for ever": Case("[[status:500]]", "failed:upstream_error", attempts=3),
    "400": Case("[[status:400]]", "failed:upstream_error", attempts=1),
    # Models of their own: a refused model cools down for all jobs that name it.
    "429 with Retry-After": Case(
        f"[[status:429:{WAIT_S}*1]]", DONE, fields={"model": "cools-down-soon"}
    ),
    "429 beyond the deadline": Case(
        "[[status:429:60*1]]",
        "failed:rate_limited",
        attempts=1,
        fields={"deadline_s": 20, "model": "cools-down"},
    ),
    "garbage": Case("[[garbage:5]]", "failed:bad_chunk", attempts=1, chunks=5),
    "an error as reply": Case("[[error_body]]", "failed:bad_chunk", attempts=1),
    "endless, by time": Case(
        "[[endless]] [[delay:0.1]]",
        "failed:deadline_exceeded",
        attempts=1,
        chunks=5,
        fields={"deadline_s": 2},
    ),
    "endless, by size": Case("[[endless]]", "failed:upstream_error", attempts=1, chunks=5),
}
REPLY_OF_ITS_OWN = {"an error as reply", "endless, by time", "endless, by size"}
CAP = 2000


def test_each_fault_of_the_upstream_ends_as_the_contract_says(site, report):
    rounds = size(1, 10)
    expected: dict[str, tuple[str, str, int]] = {}
    settings = {"WORKER_MAX_CHUNKS": str(CAP)}
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(site.worker("-c", "200", **settings))
        for n in range(rounds):
            for name, case in CASES.items():
                for mode in MODES:
                    job_id = site.submit(
                        None,
                        case.faults,
                        follow=n == 0,
                        endings=[case.ending(mode)],
                        whole=name not in REPLY_OF_ITS_OWN,
                        on_interrupt=mode,
                        how=("client", "bare")[n % 2],
                        **case.fields,
                    )
                    expected[job_id] = (name, mode, case.tries(mode))
            for _ in range(20):
                site.submit(None, "[[delay:0.05]]")
        figures = site.history.check()
        assert site.upstream.ask("open_streams") == 0
    logs = {
        job_id: [json.loads(event) for _, event in site.history.log(job_id)] for job_id in expected
    }
    report("upstream cut, stalled, endless, 4xx, 5xx, garbage", figures, runs=len(expected))
    took = {expected[job_id]: log[-1]["attempt"] for job_id, log in logs.items()}
    assert took == {limits: limits[2] for limits in took}
    for job_id, log in logs.items():
        if expected[job_id][0] == "429 with Retry-After":
            assert log[1]["ts"] - log[0]["ts"] >= WAIT_S  # started, and started again
    assert site.upstream.ask("logins") == 1


def test_401_in_mid_fleet_costs_one_login(site, report):
    """All tokens expire at once, while three workers have jobs under way."""
    expiries, jobs = size(2, 10), size(90, 600)
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(site.worker("-c", str(jobs)))
        for n in range(jobs):
            site.submit(None, "[[delay:0.02]]", follow=n % 10 == 0)
        for _ in range(expiries):
            site.upstream.ask("inject", "expire")
            opened = [
                site.submit(None, "[[delay:0.02]]", follow=n % 10 == 0)
                for n in range(jobs // expiries)
            ]
            # A call that meets two expiries in a row counts as refused, and its job fails.
            wait_until(partial(site.streaming, opened), "the jobs to stream")
        figures = site.history.check()
    logins = site.upstream.ask("logins")
    report("401 in mid-fleet, 3 workers", figures, runs=expiries, note=f"{logins - 1} logins")
    assert figures.attempts == figures.jobs, "a login again is no attempt"
    assert 1 <= logins - 1 <= expiries
