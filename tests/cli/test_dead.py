"""Dead letters with any content: job objects, and garbage."""

import json

import pytest

from berlin_schemas import InvalidJob
from berlin_schemas.names import is_job_id
from berlin_worker.cli.dead import job_of, replay_id

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "null", "[" * 200_000, "9" * 5000])
def test_dead_letter_without_a_job_object_is_invalid(text):
    with pytest.raises(InvalidJob):
        job_of({"job": text})


def test_job_of_a_dead_letter_loses_its_old_id():
    job = {"job_id": "old", "messages": []}
    assert job_of({"job": json.dumps(job)}) == {"messages": []}


def test_each_dead_letter_is_replayed_under_one_id_of_its_own():
    fields = {"job_id": "old", "job": "{}", "ts": "1"}
    letters = [
        ("1-0", fields),
        ("1-1", fields),
        ("1-0", {**fields, "ts": "2"}),
        ("1-0", {**fields, "job": '{"messages": "\ufffd\ud800"}'}),
    ]
    found = [replay_id(letter) for letter in letters]
    assert len(set(found)) == len(found)
    assert all(map(is_job_id, found))
    assert replay_id(("1-0", dict(reversed(fields.items())))) == found[0]
