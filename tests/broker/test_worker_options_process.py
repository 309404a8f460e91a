"""The options of ``celery worker``: those that work, and those that end it in one line."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.celery_cli import run_command
from tests.support.checker import text_of
from tests.support.fleet import Fleet, prompt
from tests.support.workers import ROOT, WorkerProcess, wait_until

pytestmark = pytest.mark.integration

REFUSED: list[tuple[list[str], dict[str, str], str]] = [
    *(
        (["-P", pool], {}, "--pool")
        for pool in ("threads", "solo", "processes", "celery.concurrency.solo:TaskPool")
    ),
    (["--pool=threads"], {}, "--pool"),
    *(([], {"CELERY_WORKER_POOL": pool}, "--pool") for pool in ("threads", "gevent")),
    ([], {"CELERY_CUSTOM_WORKER_POOL": "a:b", "CELERY_WORKER_POOL": "custom"}, "--pool"),
    (["--max-tasks-per-child", "10"], {}, "--max-tasks-per-child"),
    (["worker.max_tasks_per_child=10"], {}, "--max-tasks-per-child"),
    (["--max-memory-per-child", "10000"], {}, "--max-memory-per-child"),
    (["--autoscale", "10,3"], {}, "--autoscale"),
    (["--autoscale", "10,3", "--detach"], {}, "--autoscale"),
    ([], {"CELERY_WORKER_AUTOSCALE": "10,3"}, "--autoscale"),
    (["-B"], {}, "--beat"),
    (["--pidfile", "/proc/version"], {}, "--pidfile"),
    (["--statedb", __file__], {}, "--statedb"),
    (["--statedb", __file__, "--detach"], {}, "--statedb"),
    ([f"worker.state_db={__file__}"], {}, "--statedb"),
    ([], {"CELERY_WORKER_STATEDB": __file__}, "--statedb"),
    (["--purge"], {}, "--purge"),
    (["-Q", "other"], {}, "--queues"),
    (["-Q", "prompts,other"], {}, "--queues"),
    (["-X", "prompts"], {}, "--queues"),
    (["-c", "auto"], {}, "--concurrency auto"),
    (["--prefetch-multiplier", "-1"], {}, "--prefetch-multiplier"),
    (["--pool-start-method", "spawn"], {}, "--pool-start-method"),
    (["-c", "0"], {}, "--concurrency"),
    (["-c", "-1"], {}, "--concurrency"),
    (["-c", "70000"], {}, "--concurrency"),
    ([], {"CELERY_WORKER_CONCURRENCY": "0"}, "--concurrency"),
    (["--prefetch-multiplier", "0"], {}, "--prefetch-multiplier"),
    (["--heartbeat-interval", "0"], {}, "--heartbeat-interval"),
    (["--time-limit", "nan"], {}, "--time-limit"),
    (["-n", "two words"], {}, "--hostname"),
    (["-n", "a%z@h"], {}, "--hostname"),
    *(
        ([*options, *detach], {}, written)
        for detach in ([], ["--detach"])
        for options, written in (
            (["-f", "/none/such/w.log"], "--logfile"),
            (["--pidfile", "/none/such/w.pid"], "--pidfile"),
            (["--statedb", "/none/such/state"], "--statedb"),
            (["-I", "nonesuch"], "--include"),
            (["-Q", "other"], "--queues"),
            (["-X", "prompts"], "--queues"),
            (["--discard"], "--purge"),
            (["--uid", "no-such-user"], "--uid"),
            (["--gid", "no-such-group"], "--gid"),
            (["--umask", "many"], "--umask"),
        )
    ),
]


def test_options_that_make_no_sense_end_the_worker_in_one_line():
    # The address leads nowhere: a worker that gets as far as connecting never ends.
    url = {"REDIS_URL": "redis://127.0.0.1:1/0"}
    for options, env, written in REFUSED:
        code, refusal = run_command(["worker", *options], url | env)
        case = f"{options} {env}: {refusal}"
        assert code == 2, case
        assert re.fullmatch(rf"Error: {written}.*\n", refusal), case


def test_options_that_are_obeyed(fleet: Fleet, tmp_path: Path):
    pidfile, state = tmp_path / "w.pid", tmp_path / "state"
    options = [
        *("-P", "prefork", "-Q", "prompts", "-c", "2", "-O", "fair", "-E"),
        *("--without-heartbeat", "--heartbeat-interval", "5"),
        *("--prefetch-multiplier", "3", "--disable-prefetch"),
        *("--time-limit", "60", "--soft-time-limit", "50"),
        *("--statedb", str(state), "--pidfile", str(pidfile), "--logfile", f"{tmp_path}/%p.log"),
    ]
    worker = WorkerProcess(
        "berlin_worker", *options, env=fleet.env | {"WORKER_LOG_FORMAT": "console"}, wait=False
    )
    with worker, fleet.redis.pubsub() as events:
        events.psubscribe("*celeryev*")
        wait_until(lambda: pidfile.exists() and pidfile.read_text(), "the pid file")
        assert int(pidfile.read_text()) == worker.process.pid
        jobs = [fleet.send(prompt(f"number {n}")) for n in range(5)]
        for n, job in enumerate(jobs):
            assert text_of(fleet.ended(job)) == f"echo of number {n}"
        wait_until(lambda: "celeryev/task." in str(events.get_message()), "events")
        assert worker.stop() == 0
        log = "".join(path.read_text() for path in tmp_path.glob("*.log"))
        assert " ready." in log
        assert "ERROR" not in log
    assert not pidfile.exists()
    assert list(tmp_path.glob("state*"))


@pytest.mark.parametrize("option", ["--soft-time-limit", "--time-limit"])
def test_time_limit_of_the_worker_ends_a_stream(fleet: Fleet, option: str):
    with fleet.worker("-c", "2", option, "1"):
        end = fleet.ended(fleet.send(prompt("[[stall:1]] a b c")))[-1]
    assert end["type"] == "failed"


def test_detached_worker_restarts_and_stops_by_its_pid_file(fleet: Fleet, tmp_path: Path):
    pidfile, log = tmp_path / "w.pid", tmp_path / "w.log"
    command = [
        *(sys.executable, "-m", "celery", "-A", "berlin_worker", "worker", "--detach"),
        *("-c", "2", "-l", "info", "--without-mingle", "--without-gossip"),
        *("--pidfile", str(pidfile), "--logfile", str(log)),
    ]
    env = {**os.environ, "PYTHONPATH": str(ROOT), **fleet.env}
    subprocess.run(command, env=env, cwd=ROOT, check=True, timeout=60)
    wait_until(lambda: pidfile.exists() and pidfile.read_text(), "the pid file")
    pid = int(pidfile.read_text())
    try:
        fleet.ended(fleet.send(prompt("one")))
        os.kill(pid, signal.SIGHUP)
        wait_until(lambda: log.read_text().count(" ready.") == 2, "the worker once more")
        assert text_of(fleet.ended(fleet.send(prompt("two")))) == "echo of two"
    finally:
        os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not pidfile.exists(), "the end of the worker")


def test_files_that_cannot_be_opened_are_slots_that_do_not_exist(fleet: Fleet):
    code = (
        "import os, resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200)); "
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    worker = fleet.worker("-c", "1000")
    worker._command = [sys.executable, "-c", code, *worker._command[1:]]
    with worker:
        worker.wait_for_log("65 streams at once in place of 1000")
        inspect = fleet.app.control.inspect([worker.hostname], timeout=10, limit=1)
        assert inspect.stats()[worker.hostname]["pool"]["max-concurrency"] == 65
        grown = fleet.app.control.pool_grow(
            500, destination=[worker.hostname], reply=True, timeout=10, limit=1
        )
        assert "65 streams at once in place of 565" in str(grown)
        stats = inspect.stats()[worker.hostname]
        assert (stats["pool"]["max-concurrency"], stats["prefetch_count"]) == (65, 65)
        jobs = [fleet.send(prompt(str(n))) for n in range(200)]
        for n, job in enumerate(jobs):
            assert text_of(fleet.ended(job)) == f"echo of {n}"
