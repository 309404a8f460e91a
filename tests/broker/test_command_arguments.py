"""Arguments of Celery's remote control commands: those that run, and those that are refused."""

import pytest
from celery.worker.control import Panel
from hypothesis import given
from hypothesis import strategies as st

from berlin_worker.broker.command_arguments import (
    MOST_SLOTS,
    Facts,
    InvalidCommand,
    checked,
)
from tests.support.garbage import anything

pytestmark = pytest.mark.unit

TASK = "worker.generate"
FACTS = Facts(tasks={TASK}, slots=10, prefetch_multiplier=1)

OBEYED = [
    ("add_consumer", {"queue": "prompts"}),
    ("add_consumer", {"queue": "prompts", "exchange": None, "exchange_type": "direct"}),
    ("add_consumer", {"queue": "prompts", "exchange": "prompts", "routing_key": "prompts"}),
    ("cancel_consumer", {"queue": "prompts"}),
    ("pool_grow", {}),
    ("pool_grow", {"n": 500}),
    ("pool_shrink", {"n": 9}),
    ("rate_limit", {"task_name": TASK, "rate_limit": "5/m"}),
    ("rate_limit", {"task_name": TASK, "rate_limit": "0.5"}),
    ("rate_limit", {"task_name": TASK, "rate_limit": 0}),
    ("rate_limit", {"task_name": TASK, "rate_limit": None}),
    ("time_limit", {"task_name": TASK, "soft": 5.0, "hard": 10}),
    ("time_limit", {"task_name": TASK, "soft": None, "hard": None}),
    ("revoke", {"task_id": "an-id", "terminate": False, "signal": "SIGTERM"}),
    ("revoke", {"task_id": ["an-id", "../x"], "terminate": None, "signal": None}),
    ("terminate", {"task_id": ["an-id"], "signal": "kill"}),
    ("query_task", {"ids": ["an-id"]}),
    ("hello", {"from_node": "w@h", "revoked": ["an-id"]}),
    ("hello", {"from_node": "w@h", "revoked": {"an-id": 1.5}}),
    ("hello", {"from_node": "w@h"}),
    ("registered", {"taskinfoitems": ["rate_limit"]}),
    ("conf", {"with_defaults": True}),
    ("dump_conf", {}),
    ("active", {"safe": None}),
    ("shutdown", {}),
    ("a command of a plugin", {"any": object}),
]
REFUSED = [
    ("add_consumer", {"queue": "other"}, "prompts alone"),
    ("add_consumer", {"queue": "prompts", "exchange": "other"}, "prompts alone"),
    ("add_consumer", {"queue": "prompts", "exchange_type": "fanout"}, "prompts alone"),
    ("add_consumer", {"queue": "prompts", "routing_key": "#"}, "prompts alone"),
    ("add_consumer", {"queue": "prompts", "no_ack": True}, "does not exist"),
    ("add_consumer", {}, "queue is missing"),
    ("cancel_consumer", {"queue": "other"}, "prompts alone"),
    ("cancel_consumer", {"queue": ["prompts"]}, "must be printable text"),
    ("pool_grow", {"n": 0}, "1 to 65535"),
    ("pool_grow", {"n": -1}, "1 to 65535"),
    ("pool_grow", {"n": True}, "1 to 65535"),
    ("pool_grow", {"n": "3"}, "1 to 65535"),
    ("pool_grow", {"n": 10**400}, "1 to 65535"),
    ("pool_grow", {"n": MOST_SLOTS - 9}, "start another worker"),
    ("pool_shrink", {"n": 10}, "cancel_consumer prompts"),
    ("pool_shrink", {"n": -5}, "1 to 65535"),
    ("rate_limit", {"task_name": TASK, "rate_limit": "nan/s"}, "5/s"),
    ("rate_limit", {"task_name": TASK, "rate_limit": "-5/s"}, "5/s"),
    ("rate_limit", {"task_name": TASK, "rate_limit": float("nan")}, "5/s"),
    ("rate_limit", {"task_name": "other", "rate_limit": "5/s"}, TASK),
    ("time_limit", {"task_name": TASK, "soft": 0}, "above 0"),
    ("time_limit", {"task_name": TASK, "hard": float("inf")}, "above 0"),
    ("time_limit", {"task_name": TASK, "hard": "10"}, "above 0"),
    ("time_limit", {"task_name": "other", "hard": 10}, TASK),
    ("revoke", {"task_id": []}, "a task ID"),
    ("revoke", {"task_id": [[]]}, "a task ID"),
    ("revoke", {"task_id": ["\udfff"]}, "a task ID"),
    ("revoke", {"task_id": "x", "signal": "SIGNONE"}, "SIGTERM"),
    ("revoke", {"task_id": "x", "signal": 10**400}, "SIGTERM"),
    ("revoke", {"task_id": "x", "terminate": "no"}, "true or false"),
    ("query_task", {"ids": [{}]}, "a task ID"),
    ("hello", {"from_node": "w@h", "revoked": [1]}, "a list of task IDs"),
    ("registered", {"taskinfoitems": 7}, "a list of attributes"),
    ("ping", {"a": 1}, "does not exist"),
    ("shutdown", {"msg": "two\nlines"}, "printable text"),
    ("autoscale", {"max": 10}, "pool_grow"),
    ("pool_restart", {}, "SIGHUP"),
    ("election", {"id": "1", "topic": "task"}, "elect nobody"),
    ("revoke_by_stamped_headers", {"headers": {}}, "revoke ID"),
    ("objgraph", {}, "halts every stream"),
]


@pytest.mark.parametrize(("method", "arguments"), OBEYED)
def test_argument_with_a_meaning_reaches_celery_unchanged(method, arguments):
    assert checked(method, arguments, lambda: FACTS) == arguments


@pytest.mark.parametrize(("method", "arguments", "expected"), REFUSED)
def test_argument_without_a_meaning_is_refused_in_one_line(method, arguments, expected):
    with pytest.raises(InvalidCommand) as caught:
        checked(method, arguments, lambda: FACTS)
    message = str(caught.value)
    assert message.startswith(method)
    assert expected in message
    assert "\n" not in message
    assert len(message) < 250


def test_prefetch_multiplier_counts_among_the_slots():
    with pytest.raises(InvalidCommand, match="at most 16383"):
        checked("pool_grow", {"n": 16383}, lambda: FACTS._replace(prefetch_multiplier=4))


def test_every_command_of_celery_is_in_the_table():
    """A command that a new version of Celery brings has its arguments checked, too."""
    for name, function in Panel.data.items():
        if function.__module__.startswith("celery."):
            with pytest.raises(InvalidCommand):
                checked(name, {"no such argument": 1}, lambda: FACTS)


@given(
    st.sampled_from(sorted(Panel.data)),
    st.dictionaries(
        st.sampled_from(["n", "queue", "task_id", "ids", "signal", "task_name", "soft", "safe"])
        | st.text(max_size=5),
        anything | st.just(TASK),
    ),
)
def test_arguments_of_any_type_pass_or_are_refused_in_one_printable_line(method, arguments):
    refusal = ""
    try:
        assert checked(method, arguments, lambda: FACTS) == arguments
    except InvalidCommand as error:
        refusal = str(error)
    assert not refusal or refusal.isprintable()
