"""Prompts, tokens and passwords stay where they belong, however a job ends."""

import base64
import contextlib
import json
import os
import pickle
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery

from tests.broker.test_garbage import message
from tests.support.cli import run_berlin
from tests.support.fleet import Fleet, prompt
from tests.support.workers import wait_until

pytestmark = pytest.mark.integration

PROMPT = "the-secret-prompt"
OPTION = "the-secret-option"

ENDS = {
    "completed": prompt(PROMPT),
    "an error that repeats token and password": prompt(f"[[leak:500]] {PROMPT}"),
    "an upstream error": prompt(f"[[status:503]] {PROMPT}"),
    "an error with status 200": prompt(f"[[error_body]] {PROMPT}"),
    "refused": prompt(f"[[status:400]] {PROMPT}"),
    "rate limited": prompt(f"[[status:429:0.1]] {PROMPT}"),
    "token refused": prompt(f"[[expire*1]] {PROMPT}"),
    "bad chunk": prompt(f"[[garbage:1]] {PROMPT}", on_interrupt="fail"),
    "cut": prompt(f"[[cut:1]] {PROMPT}", on_interrupt="fail"),
    "dropped": prompt(f"[[drop]] {PROMPT}"),
    "idle": prompt(f"[[stall:1]] {PROMPT}", on_interrupt="fail", idle_timeout_s=0.2),
    "no first chunk": prompt(f"[[mute]] {PROMPT}", first_chunk_timeout_s=0.2),
    "deadline": prompt(f"[[endless]] [[drip:0.01]] {PROMPT}", deadline_s=0.5),
    "kept": prompt(f"[[cut:1]] {PROMPT}", on_interrupt="keep"),
    "unknown field": prompt(PROMPT, **{PROMPT: PROMPT}),
    "unknown option": prompt(PROMPT, options={"no_such": OPTION}),
    "option of another type": prompt(PROMPT, options={"temperature": OPTION}),
    "unknown provider": prompt(PROMPT, provider="nobody"),
    "unknown role": prompt(PROMPT, messages=[{"role": PROMPT, "content": PROMPT}]),
    "proxy": prompt(PROMPT, proxy=f"http://{PROMPT}:{PROMPT}@127.0.0.1:1"),
    "metadata": prompt(PROMPT, metadata={"note": PROMPT}, tenant="a"),
}


@pytest.fixture
def quick_fleet(fleet: Fleet) -> Fleet:
    fleet.env |= {
        "WORKER_RETRY_BASE_S": "0.01",
        "WORKER_RETRY_MAX_S": "0.1",
        "WORKER_MAX_ATTEMPTS": "2",
    }
    return fleet


@contextlib.contextmanager
def events_of(app: Celery) -> Iterator[list[dict[str, Any]]]:
    """Every Celery event while the block runs."""
    heard: list[dict[str, Any]] = []
    with app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": heard.append})
        thread = threading.Thread(target=lambda: receiver.capture(wakeup=False), daemon=True)
        thread.start()
        try:
            yield heard
        finally:
            receiver.should_stop = True
            thread.join()


def secrets_of(fleet: Fleet) -> list[str]:
    """Return every secret; tokens as the upstream has issued them."""
    tokens = [
        value.decode()
        for key in fleet.redis.scan_iter("token:berlin:*")
        if fleet.redis.type(key) == b"hash"
        for field, value in fleet.redis.hgetall(key).items()
        if field not in {b"gen", b"at_ms", b"count", b"retry_at_ms", b"error"}
    ]
    assert tokens
    return [PROMPT, OPTION, fleet.upstream.account, fleet.upstream.password, *tokens]


def told_in(text: str, secrets: list[str]) -> list[str]:
    return [line for line in text.splitlines() if any(secret in line for secret in secrets)]


def test_no_output_holds_a_secret_however_a_job_ends(quick_fleet):
    fleet = quick_fleet
    with (
        events_of(fleet.app) as celery_events,
        # A fork would show the command line of the process that it was forked from.
        fleet.worker("-c", "30", "--loglevel", "DEBUG", "-E", fork=False) as worker,
    ):
        job_ids = {name: fleet.send(job) for name, job in ENDS.items()}
        held = fleet.send(prompt(f"[[endless]] [[delay:0.05]] {PROMPT}"))
        revoked = fleet.send(prompt(f"[[endless]] [[delay:0.05]] {PROMPT}"))
        fleet.running(held)
        fleet.running(revoked)
        later = fleet.app.send_task(
            "worker.generate", [prompt(PROMPT)], queue="prompts", countdown=99
        )
        inspect = fleet.app.control.inspect(timeout=5, limit=1)
        wait_until(lambda: later.id in json.dumps(inspect.scheduled()), "it is scheduled")
        replies = [
            inspect.active(), inspect.reserved(), inspect.scheduled(), inspect.revoked(),
            inspect.stats(), inspect.conf(with_defaults=True), inspect.report(),
            inspect.query_task(held, later.id, revoked), inspect.registered(),
        ]  # fmt: skip
        assert all(replies)
        assert held in json.dumps(replies[0])
        command_line = Path(f"/proc/{worker.process.pid}/cmdline").read_text()
        ends = {name: fleet.ended(job_id)[-1] for name, job_id in job_ids.items()}
        fleet.app.control.revoke(revoked, terminate=True)
        fleet.redis.hset(f"job:{{{held}}}:state", "cancel", 1)
        fleet.redis.publish("job-control", json.dumps({"cancel": held, "reason": "enough"}))
        assert fleet.ended(held)[-1]["type"] == fleet.ended(revoked)[-1]["type"] == "cancelled"
        wait_until(
            lambda: {"task-received", "task-succeeded"} <= {e["type"] for e in celery_events},
            f"Celery's events, not only { {e['type'] for e in celery_events} }",
            5,
        )
        secrets = secrets_of(fleet)
        worker.stop()
    assert told_in(worker.log, secrets) == []
    assert told_in(json.dumps(celery_events, default=str), secrets) == []
    assert told_in(json.dumps(replies, default=str), secrets) == []
    assert told_in(command_line, secrets) == []
    failures = {name: end["error"] for name, end in ends.items() if end["type"] == "failed"}
    assert told_in(json.dumps(failures, indent=0), secrets) == []
    codes = {failure["code"] for failure in failures.values()}
    assert codes >= {
        "invalid_job", "upstream_error", "upstream_timeout", "rate_limited", "bad_chunk",
        "deadline_exceeded",
    }  # fmt: skip


def test_prompt_is_in_the_queue_and_the_record_and_nowhere_once_the_job_is_over(quick_fleet):
    fleet = quick_fleet
    job_id = fleet.send(prompt(f"[[stall:1]] {PROMPT}"))
    assert holding(fleet.redis, PROMPT) == {"prompts"}
    with fleet.worker() as worker:
        fleet.running(job_id)
        state = f"job:{{{job_id}}}:state"
        assert holding(fleet.redis, PROMPT) - {f"job:{{{job_id}}}:log"} == {
            state,
            "unacked:prompts",
        }
        fleet.redis.hset(state, "cancel", 1)
        fleet.redis.publish("job-control", json.dumps({"cancel": job_id}))
        fleet.ended(job_id)
        wait_until(lambda: not fleet.redis.exists("unacked:prompts"), "the message is acknowledged")
        ended = {name: fleet.send(job | {"deadline_s": 5}) for name, job in ENDS.items()}
        for each in ended.values():
            fleet.ended(each)
        worker.stop()
    # The reply, which here repeats the prompt, is in the log; metadata are the producer's own.
    kept = {key for key in holding(fleet.redis, PROMPT) if not key.endswith(":log")}
    assert kept <= {"worker:dead", f"job:{{{ended['metadata']}}}:state"}
    assert holding(fleet.redis, fleet.upstream.password) == set()


def holding(client: redis.Redis, text: str) -> set[str]:
    """The keys in whose value ``text`` stands, as it is or in the body of a message."""
    readers = {
        b"string": client.get,
        b"hash": client.hgetall,
        b"list": lambda key: client.lrange(key, 0, -1),
        b"stream": client.xrange,
        b"set": client.smembers,
        b"zset": lambda key: client.zrange(key, 0, -1),
    }
    return {
        key.decode()
        for key in client.scan_iter()
        if (kind := client.type(key)) in readers and text in opened(str(readers[kind](key)))
    }


def opened(value: str) -> str:
    bodies = re.findall(r'"body": ?"([A-Za-z0-9+/=]+)"', value)
    return " ".join([value, *(base64.b64decode(body).decode(errors="replace") for body in bodies)])


def test_wrong_password_is_in_no_log_and_no_event(quick_fleet):
    fleet = quick_fleet
    wrong = "the-wrong-password"
    console = {"WORKER_LOG_FORMAT": "console"}
    with fleet.worker("--loglevel", "DEBUG", "-E", BERLIN_PASSWORD=wrong, **console) as worker:
        end = fleet.ended(fleet.send(prompt(PROMPT)))[-1]
        assert end["error"]["code"] == "auth_failed"
        worker.stop()
    secrets = [wrong, PROMPT, fleet.upstream.account]
    assert told_in(worker.log + json.dumps(end), secrets) == []
    assert holding(fleet.redis, wrong) == set()


def test_redis_password_is_in_no_log_and_no_reply(quick_fleet):
    fleet = quick_fleet
    fleet.redis.acl_setuser("tester", enabled=True, passwords=["+redis-secret"], keys=["*"],
                            channels=["*"], commands=["+@all"])  # fmt: skip
    address = fleet.env["REDIS_URL"].partition("://")[2]
    url = f"redis://tester:redis-secret@{address}"
    with fleet.worker("--loglevel", "DEBUG", REDIS_URL=url) as worker:
        fleet.ended(fleet.send(prompt("x")))
        inspect = fleet.app.control.inspect(timeout=5, limit=1)
        replies = json.dumps([inspect.stats(), inspect.conf(with_defaults=True), inspect.report()])
        # From here on Redis refuses the user: the errors that follow must not show the password.
        fleet.redis.acl_setuser("tester", enabled=False)
        fleet.redis.client_kill_filter(user="tester")
        worker.wait_for_log("cannot be")
        worker.kill()
    fleet.redis.acl_deluser("tester")
    assert told_in(worker.log + replies, ["redis-secret"]) == []


def test_listing_of_dead_letters_shows_prompts_only_on_request(quick_fleet):
    fleet = quick_fleet
    letter = {"job_id": "a", "reason": "too_many_attempts", "job": json.dumps(prompt(PROMPT))}
    fleet.redis.xadd("worker:dead", letter)

    def listing(*options: str) -> str:
        done = run_berlin("dead", "list", *options, env=os.environ | fleet.env)
        done.check_returncode()
        return done.stdout

    assert PROMPT not in listing()
    assert PROMPT in listing("--json")


class Touch:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (self.path, "w")


def test_other_content_types_are_refused_before_decoding(fleet, tmp_path):
    touched = tmp_path / "touched"
    yaml = f"!!python/object/apply:builtins.open ['{touched}', 'w']".encode()
    gif = pickle.dumps([[Touch(str(touched))], {}, {}])
    kinds = [
        "application/x-python-serialize", "pickle", "application/x-yaml", "yaml",
        "application/x-msgpack", "application/data", "binary",
    ]  # fmt: skip
    with fleet.worker("-c", "1") as worker:
        for kind in kinds:
            for body in (gif, yaml):
                for encoding in ("binary", "utf-8"):
                    sent = message(body, content_type=kind, content_encoding=encoding)
                    fleet.redis.lpush("prompts", json.dumps(sent))
        fleet.ended(fleet.send(prompt("after them")))
        wait_until(
            lambda: fleet.redis.xlen("worker:dead") == 4 * len(kinds), "all are dead letters"
        )
        assert worker.process.poll() is None
    assert not touched.exists()


def test_proxy_of_the_environment_is_not_used(fleet):
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        proxy.settimeout(0)
        url = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        names = ("http_proxy", "https_proxy", "all_proxy")
        set_to = dict.fromkeys(names, url) | dict.fromkeys(map(str.upper, names), url)
        with fleet.worker(**set_to, NO_PROXY="", no_proxy=""):
            assert fleet.ended(fleet.send(prompt("straight")))[-1]["type"] == "completed"
        with pytest.raises(BlockingIOError):
            proxy.accept()
