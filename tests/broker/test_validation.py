"""Messages that Celery would drop silently are refused first."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from berlin_worker.broker.validation import InvalidMessage, validate

pytestmark = pytest.mark.unit

JOB = [{"messages": []}]


def reason(headers=None, payload=(JOB, {}, {}), eta=None) -> str | None:
    try:
        validate({"id": "job-1"} | (headers or {}), payload, eta)
    except InvalidMessage as error:
        return error.reason
    return None


@pytest.mark.parametrize(
    ("headers", "payload"),
    [
        ({}, (JOB, {}, {})),
        ({}, (JOB, {}, None)),
        ({}, ([], {"a": 1}, {})),  # for the task to refuse
        (
            {},
            (
                JOB,
                {},
                {"callbacks": None, "errbacks": [], "chain": None, "chord": None, "group": None},
            ),
        ),
        ({"timelimit": [None, None]}, (JOB, {}, {})),
        ({"timelimit": (None, None)}, (JOB, {}, {})),
        ({"timelimit": None}, (JOB, {}, {})),
        ({"timelimit": [30, 2.5]}, (JOB, {}, {})),
    ],
)
def test_messages_of_producers_are_valid(headers, payload):
    assert reason(headers, payload) is None


@pytest.mark.parametrize("job_id", [None, "", 7, "../x", "a b", "a\n", "x" * 129])
def test_id_must_be_a_job_id(job_id):
    assert reason({"id": job_id}) == "invalid_job_id"


@pytest.mark.parametrize(
    "limits",
    [
        "30",
        ["30", None],
        [1],
        [1, 2, 3],
        {"a": 1},
        [float("nan"), None],
        [1, float("inf")],
        [-1, None],
    ],
)
def test_limits_are_two_numbers(limits):
    assert reason({"timelimit": limits}) == "not_a_task"


@pytest.mark.parametrize(
    "headers",
    [
        {"stamped_headers": 7},
        {"stamped_headers": [[]], "stamps": {}},
        {"stamped_headers": "a", "stamps": {}},
        {"stamped_headers": ["a"], "stamps": ["a"]},
    ],
)
def test_stamps_are_names_and_an_object(headers):
    assert reason(headers) == "not_a_task"


def test_stamps_of_celery_are_valid():
    assert reason({"stamped_headers": ["a"], "stamps": {"a": ["b"]}}) is None
    assert reason({"stamped_headers": None, "stamps": {}}) is None
    assert reason({"stamped_headers": ["a"]}) is None


@pytest.mark.parametrize("payload", [(None, {}, {}), (5, {}, {}), (JOB, None, {}), (JOB, {}, [1])])
def test_arguments_have_their_shape(payload):
    assert reason(payload=payload) == "not_a_task"


@pytest.mark.parametrize("name", ["callbacks", "errbacks", "chain", "chord", "group"])
def test_follow_ups_are_refused(name):
    assert reason(payload=(JOB, {}, {name: [{"task": "t"}]})) == "follow_up"
    assert reason({name: [{"task": "t"}]}, (JOB, {}, {name: None})) == "follow_up"


def test_eta_must_have_a_timestamp():
    assert reason(eta=datetime(2100, 1, 1, tzinfo=UTC)) is None
    late = datetime.max.replace(tzinfo=timezone(-timedelta(hours=12)))
    early = datetime.min.replace(tzinfo=timezone(timedelta(hours=14)))
    assert reason(eta=late) == reason(eta=early) == "not_a_task"
