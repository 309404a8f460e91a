"""What must hold of the installed wheel; run by ``make smoke`` with its own interpreter.

Plain Python and no pytest: only what the wheel requires is installed here.
"""

import importlib
import importlib.metadata
import importlib.resources
import json
import os
import pkgutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

BIN = Path(sys.executable).parent
PACKAGES = ("berlin_schemas", "berlin_worker")
OF_PYTEST = {"berlin_worker.testing.plugin"}
"""Modules that pytest loads: nothing else may, and pytest is not installed here."""
JOB_TIMEOUT_S = 60.0


def packages_come_from_the_wheel() -> None:
    for name in PACKAGES:
        package = importlib.import_module(name)
        assert Path(package.__file__ or "").is_relative_to(sys.prefix), package.__file__
        assert importlib.resources.files(name).joinpath("py.typed").is_file(), name
    scripts = {
        file.name
        for file in importlib.resources.files("berlin_worker.storage").joinpath("lua").iterdir()
    }
    assert {"append.lua", "claim.lua", "submit.lua"} <= scripts, scripts


def every_module_imports() -> None:
    for name in PACKAGES:
        found = pkgutil.walk_packages(importlib.import_module(name).__path__, f"{name}.")
        for module in found:
            if module.name not in OF_PYTEST:
                importlib.import_module(module.name)


def providers_load_by_their_entry_points() -> None:
    points = importlib.metadata.entry_points(group="berlin_worker.providers")
    assert {"berlin", "echo"} <= points.names, points.names
    for point in points:
        point.load()


def a_project_has_its_own_modules_of_these_names() -> None:
    """Check that the wheel shadows neither ``schemas.py`` nor ``worker.py`` of a project.

    Run from the folder of such a project, as the checks after this one are too.
    """
    for name in ("schemas", "worker"):
        Path(f"{name}.py").write_text("OWN = True\n")
    code = (
        "import schemas, worker, berlin_worker.client, berlin_schemas\n"
        "assert schemas.OWN and worker.OWN\n"
        "berlin_schemas.PromptJob(messages=[{'role': 'user', 'content': 'Hello'}])\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def commands_answer() -> None:
    for command in (
        ("berlin", "--help"),
        ("celery", "-A", "berlin_worker", "worker", "--help"),
        ("celery", "-A", "berlin_worker", "report"),
    ):
        done = subprocess.run(
            [BIN / command[0], *command[1:]],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"


def a_job_goes_through() -> None:
    """Run a job as another service would: by a bare Celery producer and a bare Redis client."""
    from berlin_worker.embedded.redis_server import any_redis

    with any_redis() as (url, description), tempfile.TemporaryFile() as log:
        print(f"  {description}")
        own = {"REDIS_URL": url, "CELERY_BROKER_URL": url, "WORKER_PROVIDERS": "echo"}
        worker = subprocess.Popen(
            [BIN / "celery", "-A", "berlin_worker", "worker"],
            env=os.environ | own,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            events = _events_of_one_job(url, worker)
        finally:
            worker.terminate()
            if worker.wait(timeout=60) or sys.exc_info()[0]:
                log.seek(0)
                print(log.read().decode())
    assert worker.returncode == 0, worker.returncode
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert events[0]["type"] == "started", events
    assert events[-1]["type"] == "completed", events
    assert "".join(event.get("content", "") for event in events) == "Hello out there"


def _events_of_one_job(url: str, worker: subprocess.Popen[bytes]) -> list[dict[str, object]]:
    import redis
    from celery import Celery

    job_id = str(uuid.uuid4())
    job = {"provider": "echo", "messages": [{"role": "user", "content": "Hello out there"}]}
    Celery(broker=url).send_task("worker.generate", args=[job], task_id=job_id, queue="prompts")
    give_up = time.monotonic() + JOB_TIMEOUT_S
    with redis.Redis.from_url(url) as client:
        while time.monotonic() < give_up and worker.poll() is None:
            entries = client.xrange(f"job:{{{job_id}}}:log")
            events = [json.loads(fields[b"event"]) for _, fields in entries]
            if events and events[-1]["type"] in {"completed", "failed", "cancelled"}:
                return events
            time.sleep(0.05)
    raise AssertionError(f"no terminal event; the worker's exit code is {worker.poll()}")


CHECKS: tuple[Callable[[], None], ...] = (
    packages_come_from_the_wheel,
    every_module_imports,
    providers_load_by_their_entry_points,
    a_project_has_its_own_modules_of_these_names,
    commands_answer,
    a_job_goes_through,
)

if __name__ == "__main__":
    for check in CHECKS:
        print(check.__name__.replace("_", " "), flush=True)
        check()
