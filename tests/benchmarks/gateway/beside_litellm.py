"""``python -m tests.benchmarks.gateway.beside_litellm``: chats by the gateway, and by LiteLLM.

Both use one stand-in for an upstream. LiteLLM's proxy calls it by itself. Behind our gateway a
worker calls it, so the CPU of the worker counts, too. ``tests.servers`` installs the proxy.
"""

import argparse
import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Iterator
from typing import Final

import aiohttp

from berlin_worker.embedded.openai_upstream import OpenAIUpstream
from berlin_worker.embedded.redis_server import RedisProcess, find_server, free_port
from berlin_worker.embedded.stand_in import in_thread
from tests.benchmarks import measure
from tests.benchmarks.fleet import ROOT
from tests.benchmarks.gateway import first_byte
from tests.benchmarks.gateway.__main__ import OUT
from tests.benchmarks.processes import process
from tests.servers.__main__ import PLACE, answers, install, running

_MODEL: Final = "stand-in"
_KEY: Final = "sk-bench-0123456789"
_PACE_S: Final = 0.1
_PIECE: Final = b'"content":"'

Server = tuple[str, list[int]]
"""Base URL, and the processes whose CPU counts."""


@contextlib.contextmanager
def litellm(behind: OpenAIUpstream) -> Iterator[Server]:
    """Run LiteLLM's proxy."""
    programs, port = install("litellm"), free_port()
    model = {"model": f"openai/{_MODEL}", "api_base": f"{behind.url}/v1", "api_key": behind.key}
    config = PLACE / "litellm-bench.json"  # JSON is YAML
    listed = [{"model_name": _MODEL, "litellm_params": model}]
    config.write_text(json.dumps({"model_list": listed, "general_settings": {"master_key": _KEY}}))
    url = f"http://127.0.0.1:{port}"
    command = [str(programs / "litellm"), "--config", str(config), "--port", str(port)]
    with running(
        [*command, "--host", "127.0.0.1"],
        lambda: answers(f"{url}/health/liveliness"),
        PLACE / "litellm-bench.log",
    ) as pid:
        yield f"{url}/v1", [pid]


@contextlib.contextmanager
def ours(behind: OpenAIUpstream) -> Iterator[Server]:
    """Run our gateway, and a worker."""
    binary = find_server()
    assert binary is not None, "no redis-server and no valkey-server found"
    with RedisProcess(binary) as redis, (OUT / "worker.log").open("w") as log:
        env = os.environ | behind.environ | {
            "REDIS_URL": redis.url, "CELERY_BROKER_URL": redis.url,
            "WORKER_DEFAULT_PROVIDER": "openai", "WORKER_PROVIDERS": "openai",
        }  # fmt: skip
        command = [sys.executable, "-m", "celery", "-A", "berlin_worker", "worker"]
        with (
            process(command, cwd=ROOT, env=env, log=log) as worker,
            first_byte.gateway(redis.url, OUT / "gateway.log") as (pid, port),
        ):
            yield f"http://127.0.0.1:{port}/v1", [pid, worker.pid]


async def chats(url: str, count: int) -> int:
    """Read ``count`` streams at once; return the number of pieces of text."""
    body = {
        "model": _MODEL, "stream": True, "messages": [{"role": "user", "content": "hello"}]
    }  # fmt: skip
    headers = {"Authorization": f"Bearer {_KEY}"}
    connector = aiohttp.TCPConnector(limit=0)

    async with aiohttp.ClientSession(connector=connector, headers=headers) as http:

        async def chat() -> int:
            async with http.post(f"{url}/chat/completions", json=body) as response:
                response.raise_for_status()
                text = (await response.read()).replace(b'"content": "', _PIECE)
                return text.count(_PIECE) - text.count(b'"content":""')

        return sum(await asyncio.gather(*(chat() for _ in range(count))))


def main() -> None:
    """Measure both in turns, and print one JSON object a line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.gateway.beside_litellm")
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--chunks", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    OUT.mkdir(exist_ok=True)
    PLACE.mkdir(exist_ok=True)
    measure.raise_open_files()
    reply = " ".join(["lorem"] * given.chunks)
    with in_thread(OpenAIUpstream(reply=reply, chunk_delay_s=_PACE_S)) as behind:
        for _ in range(given.rounds):
            for serve in (ours, litellm):
                with serve(behind) as (url, pids):
                    asyncio.run(chats(url, 3))  # the first requests load modules
                    used = [measure.cpu_s(measure.tree(pid)) for pid in pids]
                    pieces = asyncio.run(chats(url, given.streams))
                    spent = [
                        (measure.cpu_s(measure.tree(pid)) - before) / pieces * 1e6
                        for pid, before in zip(pids, used, strict=True)
                    ]
                figures = {"chunks": pieces, "cpu_us_a_chunk": [round(each, 1) for each in spent]}
                print(json.dumps({"by": serve.__name__} | figures), flush=True)


if __name__ == "__main__":
    main()
