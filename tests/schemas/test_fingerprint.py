"""The fingerprint of a job object: same meaning, same fingerprint; another meaning, another one."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berlin_schemas import PromptJob
from berlin_schemas.fingerprint import fingerprint

pytestmark = pytest.mark.unit

MESSAGES = [{"role": "user", "content": "Hello"}]
JOB = {"messages": MESSAGES}

text = st.text(max_size=5)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)


def shuffled(value):
    """Return ``value`` with the keys of each object in another order."""
    if isinstance(value, dict):
        items = [(name, shuffled(item)) for name, item in value.items()]
        random.shuffle(items)
        return dict(items)
    if isinstance(value, list):
        return [shuffled(item) for item in value]
    return value


@given(st.dictionaries(text, values, max_size=5))
def test_order_of_keys_and_a_way_through_json_change_nothing(options):
    obj = {**JOB, "options": options, "model": "m"}
    assert (
        fingerprint(shuffled(obj)) == fingerprint(obj) == fingerprint(json.loads(json.dumps(obj)))
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"job_id": "mine"},
        {"job_id": None},
        {"options": {}, "metadata": {}, "tenant": None, "proxy": None},
        {"deadline_s": 600},
        {"deadline_s": 600.0, "idle_timeout_s": 30, "first_chunk_timeout_s": 60.0},
        {"on_interrupt": "restart"},
        json.loads(PromptJob.model_validate(JOB).model_dump_json()),
    ],
)
def test_default_that_is_spelt_out_changes_nothing(fields):
    assert fingerprint({**JOB, **fields}) == fingerprint(JOB)


def test_spelling_of_a_number_changes_nothing():
    one = {**JOB, "options": {"temperature": 1, "list": [0.0, {"n": -0.0}]}}
    other = {**JOB, "options": {"temperature": 1.0, "list": [0, {"n": 0}]}}
    assert fingerprint(one) == fingerprint(other)


@pytest.mark.parametrize(
    "obj",
    [
        {"messages": [{"role": "user", "content": "hello"}]},
        {"messages": [{"role": "system", "content": "Hello"}]},
        {"messages": [*MESSAGES, *MESSAGES]},
        {"messages": [{**MESSAGES[0], "name": "x"}]},
        {**JOB, "model": "another"},
        {**JOB, "provider": "echo"},
        {**JOB, "options": {"temperature": 0}},
        {**JOB, "options": {"temperature": False}},
        {**JOB, "options": {"temperature": None}},
        {**JOB, "options": {"temperature": "0"}},
        {**JOB, "options": {"temperature": 0.5}},
        {**JOB, "deadline_s": 601},
        {**JOB, "on_interrupt": "keep"},
        {**JOB, "tenant": "t"},
        {**JOB, "metadata": {"k": "v"}},
        {**JOB, "unknown": None},
        {**JOB, "proxy": False},
        {},
        [],
        [JOB],
        None,
        0,
        "x",
    ],
)
def test_another_meaning_is_another_fingerprint(obj):
    others = [JOB, {**JOB, "options": {"temperature": 0.25}}]
    assert fingerprint(obj) not in {fingerprint(other) for other in others}
    assert len(fingerprint(obj)) == 32


def test_no_two_of_many_meanings_share_a_fingerprint():
    variants = [{**JOB, "options": {"a": each}} for each in (0, False, None, "", [], {}, "0", [0])]
    assert len({fingerprint(each) for each in variants}) == len(variants)


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "\x00", "€", "😀"])
def test_any_text_has_a_fingerprint(text):
    assert fingerprint({"messages": [{"role": "user", "content": text}]})


def test_deep_nesting_or_invalid_json_has_no_fingerprint():
    deep = nested = []
    for _ in range(100_000):
        nested.append([])
        nested = nested[0]
    assert fingerprint(deep) == ""
    assert fingerprint({"messages": {1, 2}}) == ""
    while deep:  # else freeing it may overflow the stack
        deep = deep.pop()
