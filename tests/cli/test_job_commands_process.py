"""`berlin tail`, `status`, `list` and `cancel` as processes, with a real worker."""

import json
import os
import signal

import pytest

from berlin_schemas import encode
from berlin_worker.testing import events
from tests.support.cli import Stack, end
from tests.support.workers import wait_until

pytestmark = pytest.mark.integration


def test_farewell_of_tail_for_an_unknown_job_promises_nothing(stack: Stack, job_id: str) -> None:
    process = stack.start("tail", job_id, "--wait-for-start", "60")
    wait_until(
        lambda: stack.redis.pubsub_numsub(f"job:{job_id}")[0][1] == 1, "the subscription of tail"
    )
    process.send_signal(signal.SIGINT)
    code, out, err = end(process)
    assert (code, out) == (130, "")
    assert err == f"job {job_id} is not known so far: submit it, or check its ID\n"


def test_job_continues_after_tail_is_interrupted(stack: Stack, job_id: str) -> None:
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


def test_id_that_is_used_again_for_another_prompt_is_wrong_usage(stack: Stack, job_id: str) -> None:
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
    # On a busy machine Redis may answer later than completion waits: then it offers nothing.
    assert set(out.splitlines()) in (set(), {f"plain,{job_id}", f"plain,{failed}"})


def words(text: str) -> dict[str, str]:
    return {"COMP_WORDS": f"berlin {text}", "COMP_CWORD": str(len(text.split()))}


@pytest.mark.parametrize("command", ["tail", "status", "cancel"])
def test_unknown_job_is_one_line(stack: Stack, job_id: str, command: str) -> None:
    code, out, err = stack.run(command, job_id)
    assert (code, out) == (1, "")
    assert err.startswith(f"berlin: job {job_id}")
    assert len(err.splitlines()) == 1


def test_log_that_has_expired_is_one_line(stack: Stack, job_id: str) -> None:
    stack.run("submit", "Hello", "--job-id", job_id)
    stack.redis.delete(f"job:{{{job_id}}}:log")
    code, out, err = stack.run("tail", job_id)
    assert (code, out) == (1, "")
    assert err == f"berlin: job {job_id}: its log has expired\n"


def test_tail_shows_reasoning_at_a_terminal_alone(stack: Stack, job_id: str) -> None:
    shown = [events.started(), events.reasoning("Let me see."), events.chunk("Yes")]
    for event in events.numbered([*shown, events.completed()], job_id=job_id):
        stack.redis.xadd(f"job:{{{job_id}}}:log", {"event": encode(event)}, id=f"{event.seq}-0")
    stack.redis.expire(f"job:{{{job_id}}}:log", 600)
    assert stack.run("tail", job_id, "--reasoning") == (0, "Yes\n", "")
    outer, inner = os.openpty()
    with os.fdopen(outer, "rb", buffering=0) as terminal:
        process = stack.start("tail", job_id, "--reasoning", stdout=inner)
        os.close(inner)
        assert end(process)[0] == 0
        assert terminal.read(4096) == b"\x1b[2mLet me see.\x1b[0m\r\nYes\r\n"


def test_tail_prints_json_of_the_events_alone_if_a_stranger_writes_to_the_log(
    stack: Stack, job_id: str
) -> None:
    log = f"job:{{{job_id}}}:log"
    script = [events.started(), events.chunk("Yes"), events.chunk("."), events.completed()]
    first, second, third, last = map(encode, events.numbered(script, job_id=job_id))
    entries = [
        ("1-0", {"event": first}),
        ("2-0", {"event": second}),
        ("2-1", {"event": "not JSON"}),
        ("2-2", {"other": "1"}),
        ("3-0", {"event": third}),
        ("4-0", {"event": last}),
    ]
    for entry, fields in entries:
        stack.redis.xadd(log, fields, id=entry)
    stack.redis.expire(log, 600)
    code, out, err = stack.run("tail", job_id, "--json")
    assert (code, out.encode().splitlines(), err) == (0, [first, second, third, last], "")
