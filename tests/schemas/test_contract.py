"""The names of the contract: keys, channels and job IDs."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berlin_schemas import names

pytestmark = pytest.mark.unit

BAD_IDS = ["", "x" * 129, "a\n", "\n", "a b", "a:b", "{a}", "ä", "٣", "a\0", "*"]
NAMERS = [names.channel, names.log_key, names.state_key]


def test_names_are_those_of_the_contract():
    assert (names.TASK, names.QUEUE) == ("worker.generate", "prompts")
    assert (names.CONTROL_CHANNEL, names.DEAD_LETTERS) == ("job-control", "worker:dead")
    assert names.channel("a-1") == "job:a-1"
    assert names.log_key("a-1") == "job:{a-1}:log"
    assert names.state_key("a-1") == "job:{a-1}:state"


def test_token_key_holds_a_digest_and_never_the_account():
    key = names.token_key("berlin", "ada@example.org")
    assert re.fullmatch(r"token:berlin:[0-9a-f]{16}", key)
    assert key == names.token_key("berlin", "ada@example.org")
    assert key != names.token_key("berlin", "bob@example.org")


def test_new_job_ids_are_valid_and_differ():
    first, second = names.new_job_id(), names.new_job_id()
    assert names.is_job_id(first)
    assert first != second


@given(st.from_regex(r"\A[A-Za-z0-9_-]{1,128}\Z"))
def test_every_id_of_the_alphabet_makes_names(job_id):
    assert names.check_job_id(job_id) == job_id
    assert all(job_id in name(job_id) for name in NAMERS)


@given(st.text())
def test_text_is_an_id_only_if_every_character_is_in_the_alphabet(value):
    alphabet = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
    assert names.is_job_id(value) == (0 < len(value) <= 128 and set(value) <= alphabet)


@pytest.mark.parametrize("namer", NAMERS)
@pytest.mark.parametrize("job_id", BAD_IDS, ids=ascii)
def test_no_other_id_reaches_a_name_and_the_error_does_not_repeat_it(namer, job_id):
    with pytest.raises(ValueError, match=r"^a job ID is 1 to 128 characters of A-Z a-z 0-9 _ -$"):
        namer(job_id)


@pytest.mark.parametrize("value", [None, 5, b"a", ["a"]])
def test_job_id_must_be_text(value):
    assert not names.is_job_id(value)
