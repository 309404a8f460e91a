"""`berlin dead`, `doctor` and `worker` as processes, with a real worker."""

import json
import signal
import subprocess

import pytest

from berlin_worker.embedded.redis_server import RedisProcess
from tests.support.cli import Stack, end

pytestmark = pytest.mark.integration


def test_dead_letters_are_listed_and_replayed(stack: Stack) -> None:
    job = {"messages": [{"role": "user", "content": "Hello"}], "job_id": "died"}
    entry_fields = {
        "job_id": "died",
        "reason": "too_many_attempts",
        "job": json.dumps(job),
        "ts": "1",
    }
    entry = stack.redis.xadd("worker:dead", entry_fields).decode()
    garbage = {"job_id": "", "reason": "x", "message": b"\xff\x1b[2J"}
    broken = stack.redis.xadd("worker:dead", garbage).decode()
    assert stack.run("dead", "list")[1] == f"{broken}  -  x\n{entry}  died  too_many_attempts\n"
    found = [json.loads(line) for line in stack.run("dead", "list", "--json")[1].splitlines()]
    assert found[1] == {"entry": entry, **entry_fields}
    code, out, err = stack.run("dead", "replay", broken, entry)
    assert code == 1
    assert f"berlin: {broken} is not a job, and stays" in err
    job_id = out.strip()
    assert job_id != "died"
    assert stack.ended(job_id) == "completed"
    assert stack.run("dead", "list", "-n", "1")[1] == f"{broken}  -  x\n"
    stack.redis.delete("worker:dead")


def test_dead_letter_that_cannot_be_removed_runs_once(stack: Stack, job_id: str) -> None:
    job = {"messages": [{"role": "user", "content": job_id}]}
    letter = {"job_id": job_id, "reason": "too_many_attempts", "job": json.dumps(job), "ts": "1"}
    entry = stack.redis.xadd("worker:dead", letter).decode()
    user = [b"ACL", b"SETUSER", b"no-xdel", b"on", b">pw", b"+@all", b"-xdel", b"~*", b"&*"]
    stack.redis.execute_command(*user)
    url = stack.env["REDIS_URL"].replace("redis://", "redis://no-xdel:pw@")
    code, out, err = stack.run("dead", "replay", entry, env={"REDIS_URL": url})
    assert code == 1
    assert "xdel" in err
    assert stack.ended(out.strip()) == "completed"
    assert stack.run("dead", "replay", entry) == (0, out, "")
    assert stack.calls(job_id) == 1
    assert stack.run("dead", "replay", entry)[0] == 1
    again = stack.redis.xadd("worker:dead", {**letter, "job_id": out.strip()}).decode()
    other = stack.run("dead", "replay", again)[1]
    assert other != out
    assert stack.ended(other.strip()) == "completed"
    assert stack.calls(job_id) == 2


def test_doctor_finds_nothing_wrong_and_leaves_nothing_behind(stack: Stack) -> None:
    before = set(stack.redis.keys("*"))
    code, out, _ = stack.run("doctor", "--json")
    found = {result["name"]: result for result in map(json.loads, out.splitlines())}
    assert code == 0, out
    assert [name for name, result in found.items() if result["level"] != "ok"] == ["persistence"]
    assert found["workers"]["message"].startswith("1 worker")
    assert stack.upstream.password not in out
    left = {key for key in set(stack.redis.keys("*")) - before if b"doctor" in key}
    assert not left


def test_doctor_reports_failures_with_hints(stack: Stack) -> None:
    user = [b"ACL", b"SETUSER", b"limited", b"on", b">pw", b"+@all", b"~nothing:*", b"&*"]
    stack.redis.execute_command(*user)
    url = stack.env["REDIS_URL"].replace("redis://", "redis://limited:pw@")
    env = {"REDIS_URL": url, "BERLIN_PASSWORD": "hunter2"}
    code, out, err = stack.run("doctor", "--json", env=env)
    found = {result["name"]: result for result in map(json.loads, out.splitlines())}
    assert code == 1
    assert found["rights"]["level"] == "fail"
    assert "users.acl" in found["rights"]["hint"]
    assert "auth_failed" in found["login"]["message"]
    assert "BERLIN_PASSWORD" in found["login"]["hint"]
    for secret in ("hunter2", ":pw"):
        assert secret not in out + err


@pytest.mark.parametrize("command", [["doctor", "--no-login"], ["worker"]])
def test_refused_login_is_not_reported_as_no_answer(stack: Stack, command: list[str]) -> None:
    url = stack.env["REDIS_URL"].replace("redis://", "redis://nobody:hunter2@")
    code, out, err = stack.run(*command, env={"REDIS_URL": url})
    assert code == 1
    assert "answers, but refuses the login" in out + err
    assert "correct REDIS_URL" in out + err
    assert "hunter2" not in out + err


def test_doctor_of_fakeredis_warns_and_does_not_crash(stack: Stack, fake_redis_url: str) -> None:
    code, out, err = stack.run("doctor", "--json", "--no-login", env={"REDIS_URL": fake_redis_url})
    found = {result["name"]: result["level"] for result in map(json.loads, out.splitlines())}
    assert (code, err) == (0, "")
    assert found["eviction"] == "warn"
    assert found["rights"] == found["pub/sub"] == "ok"


def test_berlin_worker_becomes_celery(stack: Stack, redis_server: RedisProcess) -> None:
    # The banner is for people.
    env = {"REDIS_URL": f"{redis_server.url.removesuffix('0')}8", "WORKER_LOG_FORMAT": "console"}
    options = ["-c", "3", "--without-mingle", "--without-gossip", "--hostname=thin@%h"]
    process = stack.start("worker", *options, env=env, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    found = b""
    while b" ready." not in found:
        line = process.stdout.readline()
        assert line, found.decode()
        found += line
    assert b"concurrency: 3" in found
    process.send_signal(signal.SIGTERM)
    assert end(process)[0] == 0
