"""Each rule of the conformance tests, broken by a provider."""

import asyncio

import pytest

from berlin_schemas import ErrorCode
from berlin_worker.errors import JobError
from berlin_worker.providers.deltas import ReasoningDelta, ToolCallDelta
from berlin_worker.testing.conformance import ProviderConformance

pytestmark = pytest.mark.unit


class Right:
    """A provider that keeps all rules; options of a job decide whether it refuses or fails."""

    reads = (["Hello, "], [ReasoningDelta("so"), ToolCallDelta(0, "", id="1", name="f")])

    def __init__(self, services):
        pass

    def check(self, job):
        if "refused" in job.options:
            raise JobError(ErrorCode.INVALID_JOB, "the option refused is not known")

    async def stream(self, job, report):
        if "fails" in job.options:
            raise JobError(ErrorCode.UPSTREAM_ERROR, "the upstream is away")
        for read in self.reads:
            await asyncio.sleep(0)
            yield read


def rules(provider, **more):
    """Return the conformance tests of a provider, not yet run."""
    fields = {
        "invalid_jobs": ({"options": {"refused": 1}},),
        "failing_job": {"options": {"fails": 1}},
    }
    made = type("Rules", (ProviderConformance,), {"provider_class": provider, **fields, **more})()
    return {name: getattr(made, name) for name in dir(made) if name.startswith("test_")}


def yielding(*reads):
    return type("Yielding", (Right,), {"reads": reads})


@pytest.mark.parametrize("name", sorted(rules(Right)))
def test_provider_that_keeps_the_rules_passes(name):
    rules(Right)[name]()
    rules(Right, failing_job=None)[name]()


@pytest.mark.parametrize(
    ("reads", "problem"),
    [
        ([], "yields nothing"),
        (["text alone"], "not a list of deltas: str"),
        ([[""]], "an empty delta"),
        ([[7]], "no delta: int"),
        ([[ReasoningDelta("")]], "an empty delta"),
        ([[ReasoningDelta(7)]], "no text: int"),
        ([[ToolCallDelta(-1, "x", id="1")]], "counts from 0"),
        ([[ToolCallDelta(0, "")]], "an empty delta"),
        ([[ToolCallDelta(0, "x")]], "id and name"),
        ([[ToolCallDelta(0, "x", id="1"), ToolCallDelta(0, "y", id="1")]], "id and name"),
    ],
)
def test_wrong_delta_fails(reads, problem):
    with pytest.raises(AssertionError, match=problem):
        rules(yielding(*reads))["test_stream_yields_lists_of_text"]()


class TakesAll(Right):
    def check(self, job):
        pass


class RefusesOtherwise(Right):
    def check(self, job):
        raise JobError(ErrorCode.UPSTREAM_ERROR, "no")


class RefusesWithoutMessage(Right):
    def check(self, job):
        raise JobError(ErrorCode.INVALID_JOB, "")


class ChangesTheJob(Right):
    def check(self, job):
        job.options["more"] = 1


class NeverFails(Right):
    async def stream(self, job, report):
        yield ["all is well"]


class GoesOn(Right):
    """A provider whose task ends later after a cancellation than the rule allows."""

    async def stream(self, job, report):
        for _ in range(10):
            try:
                await asyncio.sleep(0.02)
            except asyncio.CancelledError:
                continue
        yield ["at last"]


@pytest.mark.parametrize(
    ("provider", "name", "problem"),
    [
        (TakesAll, "test_check_refuses_invalid_jobs", "takes an invalid job"),
        (RefusesOtherwise, "test_check_refuses_invalid_jobs", "upstream_error"),
        (RefusesWithoutMessage, "test_check_refuses_invalid_jobs", "no message"),
        (ChangesTheJob, "test_check_takes_a_valid_job", "changed the job"),
        (NeverFails, "test_failure_is_a_job_error", "has not failed"),
        (GoesOn, "test_cancelled_stream_ends", "after its cancellation"),
    ],
)
def test_provider_that_breaks_a_rule_fails(provider, name, problem, monkeypatch):
    monkeypatch.setattr("berlin_worker.testing.conformance._CLOSE_S", 0.05)
    with pytest.raises(AssertionError, match=problem):
        rules(provider)[name]()
