"""`deploy/redis/users.acl` on a real server: no user has rights beyond its work."""

import pytest
import redis
import redis.asyncio
from redis.exceptions import AuthenticationError, RedisError

from berlin_schemas import names
from tests.support.acl import LOG, NOPERM, OTHERS_JOB, STATE, TOKEN, USERS, cli, make_acl

pytestmark = pytest.mark.integration


def test_user_without_rights_to_the_fleet_gets_one_line(guarded, admin):
    for user in ("producer", "subscriber"):
        top = cli(guarded, user, "top", "--once")
        assert top.returncode == 1
        [line] = top.stderr.splitlines()
        assert line.startswith("berlin: Redis: ")
        assert NOPERM.search(line)


ADMINISTRATION = [
    "FLUSHALL", "FLUSHDB", "CONFIG GET *", "CONFIG SET dir /tmp", "KEYS *", "SCAN 0", "RANDOMKEY",
    "MONITOR", "SHUTDOWN NOSAVE", "SAVE", "REPLICAOF NO ONE", "ACL LIST",
    "ACL SETUSER default on nopass", "CLIENT LIST", "CLIENT KILL ID 1", "CLIENT TRACKING ON BCAST",
    "SCRIPT FLUSH",
    "FUNCTION FLUSH", "MODULE LIST", "SWAPDB 0 1", "MIGRATE 127.0.0.1 1 k 0 1", "SLOWLOG GET",
    "PSUBSCRIBE *", "PUBSUB CHANNELS", "SUBSCRIBE secret", "SET foreign 1",
    "GET foreign", "DUMP worker:due:{00}", "RENAME prompts mine", "COPY prompts mine",
    f"OBJECT ENCODING {TOKEN}", "SORT prompts",
]  # fmt: skip
READING_PROMPTS = [
    f"HGET {STATE} job", f"HGETALL {STATE}", f"HMGET {STATE} job", f"HVALS {STATE}",
    f"HRANDFIELD {STATE}", f"HSCAN {STATE} 0", f"HINCRBY {STATE} job 0", f"DUMP {STATE}",
    f"COPY {STATE} {names.state_key('mine')}", f"RENAME {STATE} {names.state_key('mine')}",
    "LRANGE prompts 0 -1", "RPOP prompts", "LPOP prompts", "LMOVE prompts prompts LEFT LEFT",
    "BRPOP prompts 1", "XRANGE worker:dead - +", "XREAD STREAMS worker:dead 0",
    "ZRANGE worker:due:{00} 0 -1", "ZRANGE worker:jobs 0 -1", "HGETALL unacked:prompts",
    f"EVAL return(redis.call('HGET',KEYS[1],'job')) 1 {STATE}",
    "EVAL return(redis.call('RPOP','prompts')) 0",
]  # fmt: skip
READING_TOKENS = [
    f"HGETALL {TOKEN}", f"HGET {TOKEN} token", f"GET {TOKEN}", f"DEL {TOKEN}",
    f"HSET {TOKEN} token mine", f"EXPIRE {TOKEN} 1", f"DUMP {TOKEN}",
    f"EVAL return(redis.call('HGET',KEYS[1],'token')) 1 {TOKEN}",
    f"EVAL return(redis.call('HGET','{TOKEN}','token')) 0",
]  # fmt: skip
READING_REPLIES = [
    "PSUBSCRIBE job:*",
    f"XRANGE {LOG} - +",
    f"XREAD STREAMS {LOG} 0",
    f"SUBSCRIBE job:{OTHERS_JOB}",
]
WRITING_REPLIES = [
    f"PUBLISH job:{OTHERS_JOB} forged", f"XADD {LOG} * event forged", f"DEL {LOG}",
    f"XTRIM {LOG} MAXLEN 0", f"EXPIRE {LOG} 1", 'PUBLISH job-control {"cancel":"x"}',
]  # fmt: skip
ENQUEUEING = [
    "LPUSH prompts x", "RPUSH prompts x", f"HSET {STATE} cancel 1", f"DEL {STATE}",
    f"EXPIRE {STATE} 1", "ZADD worker:due:{00} 1 x", "SADD _kombu.binding.prompts x",
    f"EVAL return(redis.call('DEL',KEYS[1])) 1 {STATE}", "SUBSCRIBE job-control",
]  # fmt: skip
FORBIDDEN = {
    "producer": [
        *ADMINISTRATION,
        *READING_PROMPTS,
        *READING_TOKENS,
        *READING_REPLIES,
        *WRITING_REPLIES,
        "INFO",
    ],
    "subscriber": [
        *ADMINISTRATION,
        *READING_PROMPTS,
        *READING_TOKENS,
        "PSUBSCRIBE job:*",
        *WRITING_REPLIES,
        *ENQUEUEING,
        "INFO",
    ],
    "gateway": [
        *ADMINISTRATION,
        *READING_TOKENS,
        *(each for each in WRITING_REPLIES if "job-control" not in each),
        "RPOP prompts",
        "LRANGE prompts 0 -1",
        "XRANGE worker:dead - +",
        "HGETALL unacked:prompts",
        "PSUBSCRIBE job:*",
        "INFO",
    ],
    "worker": [each for each in ADMINISTRATION if each != "SCAN 0"],
    "operator": [*ADMINISTRATION, *READING_TOKENS, "RPOP prompts"],
    "monitor": [
        *ADMINISTRATION,
        *READING_PROMPTS,
        *READING_TOKENS,
        *READING_REPLIES,
        *WRITING_REPLIES,
        *ENQUEUEING,
        "INFO",
    ],
}


@pytest.mark.parametrize(
    ("user", "command"), [(user, each) for user, some in FORBIDDEN.items() for each in some]
)
def test_user_has_no_right_beyond_its_work(guarded, admin, user, command):
    with guarded.client(user) as client, pytest.raises(RedisError, match=NOPERM):
        client.execute_command(*command.split())


def test_client_without_a_user_has_no_rights(guarded):
    for password in (None, "guess"):
        with (
            redis.Redis(port=guarded.server.port, password=password) as nobody,
            pytest.raises(AuthenticationError),
        ):
            nobody.ping()


@pytest.mark.parametrize(
    ("user", "command"),
    [
        ("subscriber", ["cancel", OTHERS_JOB]),
        ("subscriber", ["submit", "hello"]),
        ("subscriber", ["dead", "list"]),
        ("producer", ["status", OTHERS_JOB]),
        ("producer", ["tail", OTHERS_JOB]),
        ("producer", ["submit", "hello"]),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_missing_right_is_reported_as_such_and_not_as_redis_away(guarded, admin, user, command):
    done = cli(guarded, user, *command)
    assert done.returncode == 1, done.stdout
    assert "permission" in done.stderr
    assert "users.acl" in done.stderr
    assert "does not answer" not in done.stderr
    assert "secret" not in done.stderr


async def test_submit_of_a_producer_names_the_job_that_it_may_not_read(guarded, admin):
    done = cli(guarded, "producer", "submit", "hello", "--job-id", "unread")
    assert (done.returncode, done.stdout) == (1, "")
    first, second = done.stderr.splitlines()
    assert first == "job unread"
    assert second.startswith("berlin: job unread is submitted, but this user may not read")
    assert "`berlin tail unread`" in second
    assert "--no-wait" in second
    assert admin.hget(names.state_key("unread"), "status") == b"queued"
    assert b"unread" in admin.lindex(names.QUEUE, 0)


def test_file_is_not_made_without_all_passwords():
    made = make_acl(dict.fromkeys(USERS, "x") | {"worker": ""})
    assert made.returncode != 0
    assert made.stdout == ""
    assert "WORKER_PASSWORD" in made.stderr
