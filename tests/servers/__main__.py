"""Real servers of OpenAI's protocol, by other authors: ``make test-servers``.

Each gets an environment of its own below ``.servers``, and the same tests through the queue:
a bare Celery producer in front, a bare redis-py reader behind. Prints a table for tests/README.md;
ends with 1 if a test has failed.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import redis

from berlin_worker.embedded.openai_upstream import OpenAIUpstream
from berlin_worker.embedded.redis_server import any_redis, free_port
from berlin_worker.embedded.stand_in import in_thread
from tests.servers.checks import (
    Job,
    Queue,
    cancel,
    cancel_costs,
    main_job,
    reasoning,
    streams,
    tool_call,
    until,
)

ROOT: Final = Path(__file__).resolve().parents[2]
PLACE: Final = ROOT / ".servers"
_KEY: Final = "sk-test-servers-0123456789"
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


def answers(url: str) -> bool:
    """Return whether a GET succeeds."""
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False


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
    """Run the LiteLLM proxy with a mock model, and a stand-in behind it for tools and cancel."""
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
                    "reasoning": lambda: reasoning(
                        queue, job_of("[[reasoning:3]] Hello", "behind")
                    ),
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
    """Run llama-cpp-python's server with random weights; it answers one job at a time."""
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
