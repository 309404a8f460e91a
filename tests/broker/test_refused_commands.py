"""Job IDs in the arguments of Celery's revoke and in the messages of a purge."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berlin_schemas.names import is_job_id
from berlin_worker.broker.envelope import job_id_in
from berlin_worker.broker.revocation import job_ids
from tests.support.fuzz import jsons, texts

pytestmark = pytest.mark.unit

anything = st.one_of(texts, jsons.map(json.dumps)).map(
    lambda text: text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
)


@given(anything | st.lists(st.text(max_size=5)) | jsons)
def test_revoke_takes_job_ids_and_nothing_else(asked):
    assert all(is_job_id(each) for each in job_ids(asked))


@pytest.mark.parametrize(
    ("asked", "ids"),
    [
        ("one", ["one"]),
        (["one", "two", "one", "", "../x", None, 7, ["a"], {}], ["one", "two"]),
        (None, []),
        (7, []),
        ({"a": 1}, []),
    ],
)
def test_revoke_takes_one_id_or_a_list(asked, ids):
    assert job_ids(asked) == ids


@given(anything)
def test_message_of_any_kind_bears_a_job_id_or_none(raw):
    found = job_id_in(raw)
    assert found == "" or is_job_id(found)


def test_id_of_a_message_stands_in_its_headers_or_by_protocol_1_in_its_body():
    body = json.dumps({"id": "old"}).encode()
    plain = {"body": body.decode(), "headers": {}, "properties": {}}
    encoded = {"body": base64.b64encode(body).decode(), "properties": {"body_encoding": "base64"}}
    assert job_id_in(json.dumps({"headers": {"id": "new"}, "body": ""}).encode()) == "new"
    assert job_id_in(json.dumps(plain).encode()) == "old"
    assert job_id_in(json.dumps(encoded).encode()) == "old"
