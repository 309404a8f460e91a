"""Which event store holds a job: the same everywhere, spread evenly, and few move."""

import hashlib
import itertools
import uuid
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berlin_schemas.names import JOB_ID_PATTERN
from berlin_schemas.shards import shard_of
from berlin_worker.errors import SettingsError
from berlin_worker.settings import Settings
from berlin_worker.storage.sharding.marks import on_shard, trouble

pytestmark = pytest.mark.unit

JOBS = [str(uuid.UUID(int=n * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128)) for n in range(6000)]
GOLDEN = {
    "job-1": (0, 2, 2, 8),
    "job-2": (1, 1, 3, 3),
    "0b1c2d3e": (1, 1, 3, 7),
    "a": (0, 2, 2, 2),
    "A": (0, 2, 2, 9),
    "_": (1, 1, 1, 5),
    "123e4567-e89b-42d3-a456-426614174000": (0, 0, 4, 6),
    "x" * 128: (1, 1, 3, 3),
}
"""The shards of these jobs, of 2, 3, 5 and 16. Never to be changed: readers compute them too."""


@pytest.mark.parametrize(("job_id", "shards"), GOLDEN.items())
def test_a_job_is_where_it_has_always_been(job_id, shards):
    assert tuple(shard_of(job_id, count) for count in (2, 3, 5, 16)) == shards


@given(st.from_regex(JOB_ID_PATTERN, fullmatch=True), st.integers(1, 40))
def test_digests_compared_as_hexadecimal_text_give_the_same_shard(job_id, count):
    texts = [hashlib.sha256(f"{n}:{job_id}".encode()).hexdigest() for n in range(count)]
    assert shard_of(job_id, count) == texts.index(max(texts))


@pytest.mark.parametrize("count", [2, 3, 8, 16])
def test_jobs_are_spread_evenly(count):
    held = Counter(shard_of(job_id, count) for job_id in JOBS)
    share = len(JOBS) / count
    # Six standard deviations of a fair choice.
    assert all(abs(held[n] - share) < 6 * share**0.5 for n in range(count)), held


@pytest.mark.parametrize("count", [1, 2, 7])
def test_where_a_shard_is_added_jobs_move_to_it_alone_and_no_more_than_its_share(count):
    moved = [
        after
        for job_id in JOBS
        if (after := shard_of(job_id, count + 1)) != shard_of(job_id, count)
    ]
    assert set(moved) == {count}
    share = len(JOBS) / (count + 1)
    assert abs(len(moved) - share) < 6 * share**0.5


@pytest.mark.parametrize("bad", ["", "a b", "a" * 129, "{x}", "ü"])
@pytest.mark.parametrize("count", [1, 2])
def test_what_is_no_job_id_is_on_no_shard(bad, count):
    with pytest.raises(ValueError, match="job ID"):
        shard_of(bad, count)


def test_without_the_setting_redis_url_is_the_only_event_store():
    settings = Settings.from_env({"REDIS_URL": "redis://here:1/2"})
    assert settings.shards == ("redis://here:1/2",)
    assert not settings.sharded
    assert not Settings.from_env(
        {"REDIS_URL": "redis://here:1/2", "WORKER_EVENT_SHARDS": "redis://here:1/2"}
    ).sharded


def test_the_list_is_split_at_commas_and_its_order_is_kept():
    settings = Settings.from_env({"WORKER_EVENT_SHARDS": " redis://b , redis://a,"})
    assert settings.shards == ("redis://b", "redis://a")
    assert settings.sharded


@pytest.mark.parametrize(
    "listed",
    [
        "redis://a,redis://a",
        "redis://a:6379,redis://a/0",
        "redis://user:hunter2@a/1,rediss://other:hunter2@a:6379/1",
        "redis://a,redis://b,redis://A/",
        "unix:///run/redis.sock?db=1,unix:///run/redis.sock?db=1",
    ],
)
def test_a_database_that_is_named_twice_is_refused_and_not_repeated(listed):
    with pytest.raises(SettingsError, match=r"^WORKER_EVENT_SHARDS names one database twice$"):
        Settings.from_env({"WORKER_EVENT_SHARDS": listed})


@pytest.mark.parametrize(
    "listed",
    [
        "redis://a/0,redis://a/1",
        "redis://a:1,redis://a:2",
        "unix:///run/redis.sock?db=1,unix:///run/redis.sock?db=2",
    ],
)
def test_databases_that_differ_are_no_doubles(listed):
    assert len(Settings.from_env({"WORKER_EVENT_SHARDS": listed}).shards) == 2


def test_the_urls_are_in_no_repr():
    settings = Settings.from_env({"WORKER_EVENT_SHARDS": "redis://u:hunter2@a,redis://b"})
    assert "hunter2" not in repr(settings)


def test_a_mark_that_is_missing_or_right_is_no_trouble():
    for expected, found in itertools.product([None, "2", "0/2"], repeat=2):
        told = trouble(expected, found, "here")
        assert (told is None) == (found is None or found == expected)


@pytest.mark.parametrize(
    ("expected", "found", "told"),
    [
        (None, "2", "spread over 2 event stores: set WORKER_EVENT_SHARDS"),
        (None, "0/3", "spread over 3 event stores: set WORKER_EVENT_SHARDS"),
        ("3", "2", "marked for 2 event stores, and WORKER_EVENT_SHARDS names 3"),
        (on_shard(0, 3), "0/2", "marked for 2 event stores, and WORKER_EVENT_SHARDS names 3"),
        (
            on_shard(0, 2),
            "1/2",
            "store 2 of 2, and WORKER_EVENT_SHARDS has it as number 1",
        ),
    ],
)
def test_a_mark_of_another_list_says_what_differs(expected, found, told):
    assert told in (trouble(expected, found, "here:1") or "")
    assert "here:1" in (trouble(expected, found, "here:1") or "")
