"""Real servers of the protocol of OpenAI, which nobody here wrote: ``make test-servers``.

Each gets an environment of its own below ``.servers``, and the same four tests through the queue:
a bare Celery producer in front, a bare redis-py reader behind. Prints a table for tests/README.md;
ends with 1 if a test has failed.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import redis
from celery import Celery

from berlin_worker.embedded.openai_upstream import OpenAIUpstream
from berlin_worker.embedded.redis_server import any_redis, free_port
from berlin_worker.embedded.stand_in import in_thread

ROOT: Final = Path(__file__).resolve().parents[2]
PLACE: Final = ROOT / ".servers"
_STREAMS: Final = 500
_WHOLE_TOKENS: Final = 2000
_CANCELLED_TOKENS: Final = 30000
_KEY: Final = "sk-test-servers-0123456789"
_TERMINAL: Final = {"completed", "failed", "cancelled"}
_PACKAGES: Final = {
    "litellm": ("litellm[proxy]", "litellm"),
    "llama": ("llama-cpp-python[server]", "llama_cpp_python", "gguf"),
}
_TOOL: Final = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"warm": {"type": "boolean"}}},
    },
}

Job = dict[str, Any]


def install(name: str) -> Path:
    """Return the directory of programs of a server's environment, which is made once."""
    place = PLACE / name
    if not (place / "installed").exists():
        packages = [each for each in _PACKAGES[name] if each not in {"litellm", "llama_cpp_python"}]
        subprocess.run([sys.executable, "-m", "venv", "--clear", place], check=True)
        subprocess.run([place / "bin/pip", "install", "--quiet", *packages], check=True)
        (place / "installed").touch()
    return place / "bin"


@contextlib.contextmanager
def running(command: list[str], ready: Callable[[], bool], log: Path, **env: str) -> Iterator[int]:
    """Run a program until the block ends; yields its process ID once ``ready`` returns true."""
    with log.open("w") as out:
        process = subprocess.Popen(
            command, env={**os.environ, **env}, stdout=out, stderr=out, start_new_session=True
        )
    try:
        until(lambda: process.poll() is not None or ready(), 240)
        if process.poll() is not None:
            raise SystemExit(f"{command[0]} has ended: see {log}")
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:  # a server may finish its answers first
            process.kill()
            process.wait(30)


def until(is_so: Callable[[], bool], timeout_s: float) -> None:
    """Wait until ``is_so``; ends the program after ``timeout_s``."""
    end = time.monotonic() + timeout_s
    while not is_so():
        if time.monotonic() > end:
            raise SystemExit("a server was not ready in time")
        time.sleep(0.1)


def answers(url: str) -> bool:
    """Return whether a GET succeeds."""
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False


class Queue:
    """A bare producer and a bare reader."""

    def __init__(self, url: str) -> None:
        self._celery = Celery(broker=url)
        self._redis = redis.Redis.from_url(url)

    def send(self, job: Job) -> str:
        """Send a job and return its ID."""
        job_id = uuid.uuid4().hex
        self._celery.send_task("worker.generate", args=[job], queue="prompts", task_id=job_id)
        return job_id

    def events(self, job_id: str) -> list[dict[str, Any]]:
        """Return the events of a job so far."""
        log = self._redis.xrange(f"job:{{{job_id}}}:log")
        return [json.loads(fields[b"event"]) for _, fields in log]

    def wait(self, job_id: str, timeout_s: float = 300) -> list[dict[str, Any]]:
        """Return all events of a job."""
        until(lambda: self.is_over(job_id), timeout_s)
        return self.events(job_id)

    def is_over(self, job_id: str) -> bool:
        """Return whether a job has its last event."""
        last = self._redis.xrevrange(f"job:{{{job_id}}}:log", count=1)
        return bool(last) and json.loads(last[0][1][b"event"])["type"] in _TERMINAL

    def cancel(self, job_id: str) -> None:
        """Cancel a job as the contract says."""
        self._redis.hset(f"job:{{{job_id}}}:state", "cancel", "1")
        self._redis.publish("job-control", json.dumps({"cancel": job_id}))


def main_job(queue: Queue, job: Job) -> str:
    """Text and usage arrive."""
    events = queue.wait(queue.send(job))
    last = events[-1]
    assert last["type"] == "completed", last
    chunks = [event["content"] for event in events if event["type"] == "chunk"]
    assert chunks
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    tokens = (last.get("usage") or {}).get("completion_tokens", "no")
    return f"{len(chunks)} chunks, {tokens} tokens, {last['finish_reason']}"


def tool_call(queue: Queue, job: Job) -> str:
    """A tool call arrives whole."""
    events = queue.wait(queue.send(job))
    assert events[-1]["type"] == "completed", events[-1]
    pieces = [event for event in events if event["type"] == "tool_call"]
    assert pieces, events
    assert pieces[0]["name"] == "weather"
    text = "".join(piece["arguments"] for piece in pieces)
    return f"{len(pieces)} events, arguments {text}"[:80]


def cancel(queue: Queue, job: Job, is_idle: Callable[[], bool]) -> str:
    """A cancelled job ends, and its server stops to generate."""
    job_id = queue.send(job)
    until(lambda: any(event["type"] == "chunk" for event in queue.events(job_id)), 120)
    started = time.monotonic()
    queue.cancel(job_id)
    assert queue.wait(job_id)[-1]["type"] == "cancelled"
    ended_s = time.monotonic() - started
    until(is_idle, 60)
    return f"event after {ended_s:.1f} s, the server idle after {time.monotonic() - started:.1f} s"


def cancel_costs(queue: Queue, job: Callable[[int], Job], pid: int) -> str:
    """A cancelled job ends, and the CPU time of its server says that it has stopped generating.

    A whole job, shorter than what is left of the cancelled one, shows what the latter would cost.
    """
    before_s = cpu_s(pid)
    assert queue.wait(queue.send(job(_WHOLE_TOKENS)))[-1]["type"] == "completed"
    whole_s = cpu_s(pid) - before_s
    result = cancel(queue, job(_CANCELLED_TOKENS), lambda: is_idle(pid))
    spent_s = cpu_s(pid) - before_s - whole_s
    assert spent_s < whole_s / 2, f"{spent_s:.1f} s of CPU, {_WHOLE_TOKENS} tokens: {whole_s:.1f} s"
    return (
        f"{result}; {spent_s:.1f} s of CPU for what there was of {_CANCELLED_TOKENS} tokens, where "
        f"{_WHOLE_TOKENS} take {whole_s:.1f} s"
    )


def streams(queue: Queue, job: Job) -> str:
    """Many streams at once, none lost."""
    started = time.monotonic()
    ids = [queue.send(job) for _ in range(_STREAMS)]
    ends = [queue.wait(job_id, 900)[-1]["type"] for job_id in ids]
    assert ends == ["completed"] * _STREAMS, {end: ends.count(end) for end in set(ends)}
    return f"{_STREAMS} completed in {time.monotonic() - started:.0f} s"


def job_of(prompt: str, model: str, **options: Any) -> Job:
    """Return a job for the server that is tested."""
    messages = [{"role": "user", "content": prompt}]
    return {
        "provider": "openai",
        "model": model,
        "messages": messages,
        "options": options,
        "deadline_s": 900,
        "first_chunk_timeout_s": 900,
    }


@contextlib.contextmanager
def litellm(queue: Queue) -> Iterator[tuple[str, dict[str, Callable[[], str]]]]:
    """The LiteLLM proxy: a mock model of its own, and a stand-in behind it for tools and cancel."""
    programs, port = install("litellm"), free_port()
    with in_thread(OpenAIUpstream(chunk_delay_s=0.05)) as behind:
        model = {"model": "openai/stand-in", "api_base": f"{behind.url}/v1", "api_key": behind.key}
        mock = {"model": "openai/none", "api_key": "x", "mock_response": "A mock of many words."}
        names = {"mock": mock, "behind": model}
        listed = [{"model_name": name, "litellm_params": each} for name, each in names.items()]
        config = PLACE / "litellm.json"  # JSON is YAML
        general = {"master_key": _KEY}
        config.write_text(json.dumps({"model_list": listed, "general_settings": general}))
        url = f"http://127.0.0.1:{port}"
        command = [str(programs / "litellm"), "--config", str(config), "--port", str(port)]
        with running(
            [*command, "--host", "127.0.0.1"],
            lambda: answers(f"{url}/health/liveliness"),
            PLACE / "litellm-server.log",
        ):
            yield (
                f"{url}/v1",
                {
                    "main job": lambda: main_job(queue, job_of("Hello", "mock")),
                    "tool call": lambda: tool_call(
                        queue, job_of("[[tool_calls:1]]", "behind", tools=[_TOOL])
                    ),
                    "cancel": lambda: cancel(
                        queue, job_of("[[endless]]", "behind"), lambda: behind.open_streams == 0
                    ),
                    "streams": lambda: streams(queue, job_of("Hello", "mock")),
                },
            )


@contextlib.contextmanager
def llama(queue: Queue) -> Iterator[tuple[str, dict[str, Callable[[], str]]]]:
    """llama.cpp by llama-cpp-python's server, with random weights: it answers one at a time."""
    programs, port = install("llama"), free_port()
    model = PLACE / "tiny.gguf"
    script = Path(__file__).with_name("tiny_model.py")
    subprocess.run([programs / "python", script, model], check=True)
    url = f"http://127.0.0.1:{port}/v1"
    command = [str(programs / "python"), "-m", "llama_cpp.server", "--model", str(model)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--n_ctx", "32768"]
    command += ["--chat_format", "chatml-function-calling", "--n_threads", "1"]
    command += ["--interrupt_requests", "false"]
    log = PLACE / "llama-server.log"
    with running(command, lambda: answers(f"{url}/models"), log) as pid:
        forced = {"type": "function", "function": {"name": "weather"}}
        tools = {"tools": [_TOOL], "tool_choice": forced, "max_tokens": 60}
        yield (
            url,
            {
                "main job": lambda: main_job(queue, job_of("Hello", "tiny", max_tokens=40)),
                "tool call": lambda: tool_call(queue, job_of("Weather?", "tiny", **tools)),
                "cancel": lambda: cancel_costs(
                    queue, lambda tokens: job_of("Hello", "tiny", max_tokens=tokens), pid
                ),
                "streams": lambda: streams(queue, job_of("Hello", "tiny", max_tokens=8)),
            },
        )


def is_idle(pid: int) -> bool:
    """Return whether a process uses next to no CPU for half a second."""
    before_s = cpu_s(pid)
    time.sleep(0.5)
    return cpu_s(pid) - before_s < 0.03


def cpu_s(pid: int) -> float:
    """Return the CPU time (s) that a process has used, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def version(name: str) -> str:
    """Return name and version of the server's package."""
    package = {"litellm": "litellm", "llama": "llama_cpp_python"}[name]
    code = f"from importlib.metadata import version; print('{package}', version('{package}'))"
    done = subprocess.run(
        [PLACE / name / "bin/python", "-c", code], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def test(name: str) -> list[str]:
    """Run the tests of a server, and return the rows of its table."""
    start = {"litellm": litellm, "llama": llama}[name]
    rows = []
    with any_redis() as (redis_url, _):
        queue = Queue(redis_url)
        with start(queue) as (url, tests):
            heartbeat = redis.Redis.from_url(redis_url)
            command = [sys.executable, "-m", "celery", "-A", "berlin_worker", "worker"]
            with running(
                [*command, "-c", "1000", "--loglevel", "INFO"],
                lambda: bool(heartbeat.keys("worker:*")),
                PLACE / f"{name}-worker.log",
                REDIS_URL=redis_url,
                OPENAI_BASE_URL=url,
                OPENAI_API_KEY=_KEY,
                PYTHONPATH=f"{ROOT}/worker:{ROOT}/schemas",
            ):
                for title, work in tests.items():
                    try:
                        result = work()
                    except AssertionError as error:
                        result = f"FAILED: {str(error)[:200]}"
                    print(name, title, result, flush=True)
                    rows.append(f"| {version(name)} | {title} | {result} |")
    return rows


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("servers", nargs="*", default=list(_PACKAGES))
    PLACE.mkdir(exist_ok=True)
    rows = [row for name in parser.parse_args().servers for row in test(name)]
    print("\n| server | test | result |\n| --- | --- | --- |\n" + "\n".join(rows))
    return any("FAILED" in row for row in rows)


if __name__ == "__main__":
    raise SystemExit(main())
