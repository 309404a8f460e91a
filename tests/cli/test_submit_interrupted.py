"""`berlin submit` that is interrupted, whose output breaks, or that no worker serves."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
import redis

from berlin_worker.embedded.redis_server import RedisProcess
from tests.support.cli import BERLIN, HUP, Stack, end
from tests.support.workers import TIMEOUT_S, wait_until

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    ("number", "exit_code"),
    [
        pytest.param(signal.SIGINT, 130, id="INT"),
        pytest.param(signal.SIGTERM, 143, id="TERM"),
        HUP,
    ],
)
def test_ctrl_c_cancels_the_job(
    stack: Stack, job_id: str, number: signal.Signals, exit_code: int
) -> None:
    disconnects = stack.upstream.disconnects
    process = stack.start("submit", "[[stall:2]]", "--job-id", job_id, "--json")
    stack.streaming(job_id)
    process.send_signal(number)
    code, out, err = end(process)
    assert code == exit_code
    assert f"job {job_id} is cancelled" in err
    # The end is shown too, so that a reader of JSON has the outcome of the job.
    assert [json.loads(line)["type"] for line in out.splitlines()] == stack.types(job_id)
    assert stack.types(job_id)[-1] == "cancelled"
    wait_until(lambda: stack.upstream.disconnects > disconnects, "the upstream to be left")


def test_second_ctrl_c_leaves_at_once(stack: Stack, redis_server: RedisProcess) -> None:
    # Without a worker the cancelled job does not end.
    env = {"REDIS_URL": f"{redis_server.url.removesuffix('0')}7"}
    with redis.Redis.from_url(env["REDIS_URL"]) as idle:
        process = stack.start("submit", "Hello", "--job-id", "waits", env=env)
        wait_until(lambda: idle.llen("prompts"), "the job in the queue")
        process.send_signal(signal.SIGINT)
        wait_until(lambda: idle.hget("job:{waits}:state", "cancel"), "the cancellation")
        process.send_signal(signal.SIGINT)
        assert end(process)[0] == 130
        idle.flushdb()


def test_closed_pipe_cancels_the_job(stack: Stack, job_id: str) -> None:
    process = stack.start("submit", "[[stall:2]]", "--job-id", job_id)
    assert process.stdout is not None
    assert os.read(process.stdout.fileno(), 4) == b"one "
    # No further text comes, so no write meets the broken pipe. The command must notice it.
    process.stdout.close()
    process.stdout = None
    code, _, err = end(process)
    assert code == 141
    assert err == f"job {job_id}\n"
    assert stack.ended(job_id) == "cancelled"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_full_disk_cancels_the_job(stack: Stack, job_id: str) -> None:
    with Path("/dev/full").open("wb") as full:
        process = stack.start("submit", "[[stall:2]]", "--job-id", job_id, stdout=full)
        code, _, err = end(process)
    assert code == 1
    assert "berlin: [Errno 28] No space left on device" in err
    assert stack.ended(job_id) == "cancelled"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_help_for_a_full_disk_is_one_line(stack: Stack) -> None:
    for words in (["--help"], ["--version"], ["list", "-h"], []):
        env = {} if words else {"_BERLIN_COMPLETE": "bash_source"}
        with Path("/dev/full").open("wb") as full:
            ended = end(stack.start(*words, env=env, stdout=full))
        assert ended == (1, "", "berlin: [Errno 28] No space left on device\n"), words


def test_job_without_a_worker_causes_a_hint(stack: Stack, redis_server: RedisProcess) -> None:
    env = {"REDIS_URL": f"{redis_server.url.removesuffix('0')}6"}
    process = stack.start("submit", "Hello", env=env)
    assert process.stderr is not None
    found = [process.stderr.readline().decode() for _ in range(2)]
    assert "the job waits for a worker" in found[1]
    assert "no worker is running; start one with `berlin worker`" in found[1]
    process.kill()
    end(process)
    with redis.Redis.from_url(env["REDIS_URL"]) as idle:
        idle.flushdb()


def test_ctrl_c_works_while_the_pipe_is_full(stack: Stack, job_id: str) -> None:
    process = stack.start("submit", "[[chunks:5000]] [[stall:5000]]", "--job-id", job_id, "--json")
    # More than a pipe holds.
    wait_until(lambda: stack.redis.xlen(f"job:{{{job_id}}}:log") > 5000, "a long log")
    process.send_signal(signal.SIGINT)
    assert stack.ended(job_id) == "cancelled"
    process.send_signal(signal.SIGINT)
    assert process.wait(TIMEOUT_S) == 130
    end(process)


def test_closed_stdout_is_not_a_failure(stack: Stack, job_id: str) -> None:
    shell = [*BERLIN, "submit", "Hello", "--job-id", job_id]
    process = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *shell],
        env=stack.env,
        stderr=subprocess.PIPE,
        check=False,
    )
    assert (process.returncode, process.stderr.decode()) == (0, f"job {job_id}\n")
