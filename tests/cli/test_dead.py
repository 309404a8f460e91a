"""Dead letters with any content: job objects, and garbage."""

import json

import pytest

from berlin_schemas import InvalidJob
from berlin_worker.cli.dead import job_of

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "null", "[" * 200_000, "9" * 5000])
def test_dead_letter_without_a_job_object_is_invalid(text):
    with pytest.raises(InvalidJob):
        job_of({"job": text})


def test_job_of_a_dead_letter_loses_its_old_id():
    job = {"job_id": "old", "messages": []}
    assert job_of({"job": json.dumps(job)}) == {"messages": []}
