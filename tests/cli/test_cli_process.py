"""The `berlin` command as a process of its own, against a real worker and a stand-in upstream."""

import contextlib
import json
import os
import pty
import signal
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from berlin_worker.cli.output import encoded
from berlin_worker.embedded.redis_server import RedisProcess
from tests.support.cli import BERLIN, HUP, Stack, cli_stack, end
from tests.support.workers import TIMEOUT_S, wait_until

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """One worker for all tests of this file."""
    with cli_stack() as stack:
        yield stack


@pytest.fixture
def job_id() -> str:
    return f"cli-{uuid.uuid4().hex}"


# --- submit --------------------------------------------------------------------------------


def test_submit_writes_the_text_and_nothing_else(stack: Stack, job_id: str) -> None:
    assert stack.run("submit", "Hello", "--job-id", job_id) == (
        0,
        "one two three \n",
        f"job {job_id}\n",
    )


def test_json_is_the_log_byte_for_byte(stack: Stack, job_id: str) -> None:
    code, out, _ = stack.run("submit", "Hello", "--job-id", job_id, "--json")
    assert code == 0
    assert out.encode() == b"".join(event + b"\n" for event in stack.events(job_id))


def test_a_prompt_comes_from_stdin_and_options_reach_the_upstream(stack: Stack) -> None:
    text = f"prompt {uuid.uuid4().hex}"
    options = ["--system", "Be brief.", "-o", "max_tokens=7", "--model", "gpt-4"]
    code, _, _ = stack.run("submit", "-", *options, stdin=f"{text}\n".encode())
    assert code == 0
    [body] = [c.body for c in stack.upstream.calls if c.body and text in c.body.get("prompt", "")]
    assert body["prompt"] == f"System: Be brief.\nUser: {text}\nAssistant:"
    assert body["options"]["max_tokens"] == 7
    assert body["options"]["model"] == "gpt-4"


def test_stdin_joins_the_prompt_after_a_blank_line(stack: Stack, tmp_path: Path) -> None:
    text = f"text {uuid.uuid4().hex}"
    for arguments, stdin in (
        (["Summarise"], f"\ufeff{text}\n".encode()),
        (["Summarise"], text.encode("utf-16")),
        ([], f"Summarise\n\n{text}\n".encode()),
    ):
        assert stack.run("submit", *arguments, stdin=stdin)[0] == 0
        assert stack.upstream.prompts[-1] == f"Summarise\n\n{text}"
    code, out, err = stack.run("submit", "Summarise", stdin=b"\xff")
    assert (code, out) == (2, "")
    assert err == "berlin: stdin is not UTF-8 text (byte 1)\n"


def test_silent_stdin_does_not_hang(stack: Stack) -> None:
    text = f"prompt {uuid.uuid4().hex}"
    process = stack.start("submit", text, stdin=subprocess.PIPE)
    assert process.wait(TIMEOUT_S) == 0
    assert "the prompt goes alone" in end(process)[2]
    assert stack.upstream.prompts[-1] == text
    process = stack.start("submit", text, "--no-stdin", stdin=subprocess.PIPE)
    assert process.wait(TIMEOUT_S) == 0
    code, _, err = end(process)
    assert (code, len(err.splitlines())) == (0, 1)


ENCODINGS = {
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "utf-8": {"LC_ALL": "C"},
    "ascii ": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_text_fits_the_encoding_of_the_output(stack: Stack, job_id: str, encoding: str) -> None:
    env = {"PYTHONIOENCODING": "", **ENCODINGS[encoding]}
    shown = encoded("“ü” → 😀 │", encoding.strip()).decode(encoding.strip())
    commands: list[list[str]] = [
        ["submit", "“ü” → 😀 │", "--provider", "echo", "--job-id", job_id, "--tenant", "ü😀"],
        ["tail", job_id, "--final"],
        ["status", job_id],
        ["list", "-n", "3"],
        ["top", "--once"],
        ["dead", "list"],
    ]
    for number, command in enumerate(commands):
        process = stack.start(*command, env=env, stdin=subprocess.DEVNULL)
        out, err = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 0, err
        assert b"Traceback" not in err
        text = out.decode(encoding.strip())
        if number < 2:
            assert text == f"{shown}\n"
    process = stack.start("statüs", env=env)
    _, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 2
    assert "Did you mean 'status'?" in err.decode(encoding.strip())


def test_colours_follow_the_environment_variables(stack: Stack, job_id: str) -> None:
    stack.run("submit", "Hello", "--job-id", job_id)
    for env, colours in (
        ({"FORCE_COLOR": "1"}, True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
        ({}, False),
    ):
        out = stack.run("status", job_id, env=env)[1]
        assert ("\x1b[" in out) is colours


@pytest.mark.parametrize(
    "command", [["list", "--json"], ["--help"], ["status", "ID"], ["top", "--once"]]
)
def test_closed_pipe_causes_no_traceback(stack: Stack, job_id: str, command: list[str]) -> None:
    stack.run("submit", "Hello", "--job-id", job_id)
    ours, theirs = os.pipe()
    os.close(ours)
    process = stack.start(*(job_id if word == "ID" else word for word in command), stdout=theirs)
    os.close(theirs)
    code, _, err = end(process)
    assert (code, err) == (141, "")


def test_no_wait_prints_only_the_id_for_tail(stack: Stack) -> None:
    code, out, err = stack.run("submit", "Hello", "--no-wait")
    assert (code, err) == (0, "")
    job_id = out.removesuffix("\n")
    assert stack.run("tail", job_id) == (0, "one two three \n", "")
    after = json.loads(stack.run("tail", job_id, "--after", "2", "--json")[1].splitlines()[0])
    assert (after["seq"], after["content"]) == (3, "two ")


def test_submitting_twice_pays_once(stack: Stack, job_id: str) -> None:
    text = f"once {job_id}"
    assert stack.run("submit", text, "--job-id", job_id)[1] == "one two three \n"
    code, out, err = stack.run("submit", text, "--job-id", job_id)
    assert (code, out) == (0, "one two three \n")
    assert "was submitted before, and is completed" in err
    assert stack.calls(text) == 1


def test_failed_job_ends_with_1_and_its_error(stack: Stack, job_id: str) -> None:
    code, out, err = stack.run("submit", "[[status:400]]", "--job-id", job_id)
    assert (code, out) == (1, "")
    assert "berlin: the job has failed: upstream_error: " in err
    assert "Traceback" not in err


def test_after_a_reset_the_text_begins_anew(stack: Stack, job_id: str) -> None:
    prompt = f"{job_id} [[cut:1*1]]"
    code, out, err = stack.run("submit", prompt, "--job-id", job_id)
    assert (code, out) == (0, "one \none two three \n")
    assert "restarted (upstream_error): earlier text is void" in err
    assert stack.run("tail", job_id, "--final")[1] == "one two three \n"


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


def test_a_second_ctrl_c_leaves_at_once(stack: Stack, redis_server: RedisProcess) -> None:
    # No worker: nobody ends the cancelled job.
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
    # Nothing more comes that could meet the broken pipe: it is noticed all the same.
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


def test_a_job_that_no_worker_takes_leads_to_a_hint(
    stack: Stack, redis_server: RedisProcess
) -> None:
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


HOSTILE = "a \x1b[2Jb\x07\r\n[bold]c[/bold]"


def test_pipe_receives_the_text_unchanged_with_a_last_newline(stack: Stack, tmp_path: Path) -> None:
    options = ["--provider", "echo"]
    assert stack.run("submit", HOSTILE, *options)[:2] == (0, HOSTILE + "\n")
    # A file is no pipe: nothing about it can be waited for.
    with (tmp_path / "out").open("wb") as out:
        assert end(stack.start("submit", HOSTILE, *options, stdout=out))[0] == 0
    assert (tmp_path / "out").read_bytes() == HOSTILE.encode() + b"\n"


def test_a_terminal_gets_no_control_characters(stack: Stack) -> None:
    controller, terminal = pty.openpty()
    process = stack.start("submit", HOSTILE, "--provider", "echo", stdout=terminal)
    os.close(terminal)
    assert end(process)[0] == 0
    found = b""
    with contextlib.suppress(OSError):  # the end of a terminal
        while data := os.read(controller, 4096):
            found += data
    os.close(controller)
    assert found.decode() == "a ␛[2Jb␇\r\n[bold]c[/bold]\r\n"


def test_closed_stdout_is_not_a_failure(stack: Stack, job_id: str) -> None:
    shell = [*BERLIN, "submit", "Hello", "--job-id", job_id]
    process = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *shell],
        env=stack.env,
        stderr=subprocess.PIPE,
        check=False,
    )
    assert (process.returncode, process.stderr.decode()) == (0, f"job {job_id}\n")


# --- tail, cancel, status ------------------------------------------------------------------


def test_leaving_tail_of_an_unknown_job_does_not_claim_that_it_goes_on(
    stack: Stack, job_id: str
) -> None:
    process = stack.start("tail", job_id, "--wait-for-start", "60")
    wait_until(
        lambda: stack.redis.pubsub_numsub(f"job:{job_id}")[0][1] == 1, "the subscription of tail"
    )
    process.send_signal(signal.SIGINT)
    code, out, err = end(process)
    assert (code, out) == (130, "")
    assert err == f"job {job_id} is not known so far: submit it, or check its ID\n"


def test_job_goes_on_after_tail_is_interrupted(stack: Stack, job_id: str) -> None:
    stack.run("submit", "[[stall:2]]", "--no-wait", "--job-id", job_id)
    process = stack.start("tail", job_id)
    assert process.stdout is not None
    assert os.read(process.stdout.fileno(), 4) == b"one "
    process.send_signal(signal.SIGINT)
    code, _, err = end(process)
    assert code == 130
    assert f"the job goes on: berlin tail {job_id} --after " in err
    assert json.loads(stack.run("status", job_id, "--json")[1])["status"] == "running"
    assert stack.run("cancel", job_id) == (0, f"job {job_id} has ended: cancelled\n", "")
    assert stack.run("cancel", job_id) == (0, f"job {job_id} has ended already: cancelled\n", "")
    assert stack.run("tail", job_id)[0] == 1


def test_status_shows_how_a_job_ended(stack: Stack, job_id: str) -> None:
    stack.run("submit", "[[status:400]]", "--job-id", job_id)
    found = json.loads(stack.run("status", job_id, "--json")[1])
    assert found["status"] == "failed"
    assert found["end"]["error"]["code"] == found["error"]["code"] == "upstream_error"
    code, out, _ = stack.run("status", job_id)
    assert code == 0
    assert "upstream_error: " in out


def test_tail_at_the_terminal_event_ends_as_the_job_has(stack: Stack, job_id: str) -> None:
    stack.run("submit", "Hello", "--job-id", job_id)
    last = str(len(stack.events(job_id)))
    assert stack.run("tail", job_id, "--after", last) == (0, "", "")
    assert stack.run("tail", job_id, "--after", last, "--json") == (0, "", "")
    failed = f"{job_id}-failed"
    stack.run("submit", "[[status:400]]", "--job-id", failed)
    code, out, err = stack.run("tail", failed, "--after", str(len(stack.events(failed))))
    assert (code, out) == (1, "")
    assert err.startswith("berlin: the job has failed: upstream_error: ")
    assert len(err.splitlines()) == 1


def test_an_id_that_is_used_again_for_another_prompt_is_wrong_usage(
    stack: Stack, job_id: str
) -> None:
    stack.run("submit", "Hello", "--job-id", job_id)
    for options in ([], ["--no-wait"]):
        code, out, err = stack.run("submit", "Another", "--job-id", job_id, *options)
        assert (code, out) == (2, "")
        assert f"berlin: job ID {job_id} belongs to a job with another payload" in err


def test_jobs_are_listed(stack: Stack, job_id: str) -> None:
    stack.run("submit", "Hello", "--job-id", job_id, "--tenant", job_id)
    failed = f"{job_id}-failed"
    stack.run("submit", "[[status:400]]", "--job-id", failed, "--tenant", job_id)
    code, out, err = stack.run("list", "--tenant", job_id)
    assert (code, err) == (0, "")
    newer, older = (line.split() for line in out.splitlines())
    assert (newer[0], newer[1], newer[-1]) == (failed, "failed", "upstream_error")
    assert (older[0], older[1], older[-1]) == (job_id, "completed", job_id)
    options = ["--tenant", job_id, "--status", "failed", "--limit", "5", "--json"]
    [line] = stack.run("list", *options)[1].splitlines()
    found = json.loads(line)
    assert (found["job_id"], found["error"]["code"]) == (failed, "upstream_error")
    assert stack.run("list", "--tenant", "nobody") == (0, "", "no job matches\n")
    code, out, _ = stack.run("list", "--tenant", "nobody", "--json")
    assert (code, out) == (0, "")
    _, out, _ = stack.run(env={"_BERLIN_COMPLETE": "bash_complete", **words(f"tail {job_id}")})
    # A busy machine may be too slow for a user's patience: nothing is offered then.
    assert set(out.splitlines()) in (set(), {f"plain,{job_id}", f"plain,{failed}"})


def words(text: str) -> dict[str, str]:
    return {"COMP_WORDS": f"berlin {text}", "COMP_CWORD": str(len(text.split()))}


@pytest.mark.parametrize("command", ["tail", "status", "cancel"])
def test_unknown_job_is_one_line(stack: Stack, job_id: str, command: str) -> None:
    code, out, err = stack.run(command, job_id)
    assert (code, out) == (1, "")
    assert err.startswith(f"berlin: job {job_id}")
    assert len(err.splitlines()) == 1


def test_a_log_that_has_expired_is_one_line(stack: Stack, job_id: str) -> None:
    stack.run("submit", "Hello", "--job-id", job_id)
    stack.redis.delete(f"job:{{{job_id}}}:log")
    code, out, err = stack.run("tail", job_id)
    assert (code, out) == (1, "")
    assert err == f"berlin: job {job_id}: its log has expired\n"


# --- dead, doctor, worker ------------------------------------------------------------------


def test_dead_letters_are_listed_and_replayed(stack: Stack) -> None:
    job = {"messages": [{"role": "user", "content": "Hello"}], "job_id": "died"}
    letter = {"job_id": "died", "reason": "too_many_attempts", "job": json.dumps(job), "ts": "1"}
    entry = stack.redis.xadd("worker:dead", letter).decode()
    garbage = {"job_id": "", "reason": "x", "message": b"\xff\x1b[2J"}
    broken = stack.redis.xadd("worker:dead", garbage).decode()
    assert stack.run("dead", "list")[1] == f"{broken}  -  x\n{entry}  died  too_many_attempts\n"
    found = [json.loads(line) for line in stack.run("dead", "list", "--json")[1].splitlines()]
    assert found[1] == {"entry": entry, **letter}
    code, out, err = stack.run("dead", "replay", broken, entry)
    assert code == 1
    assert f"berlin: {broken} is not a job, and stays" in err
    job_id = out.strip()
    assert job_id != "died"
    assert stack.ended(job_id) == "completed"
    assert stack.run("dead", "list", "-n", "1")[1] == f"{broken}  -  x\n"
    stack.redis.delete("worker:dead")


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
