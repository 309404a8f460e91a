"""The contenders: their commands, and how many streams one worker of each can hold."""

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent / "contenders"
ENVS = ROOT / ".bench" / "envs"


@dataclass(frozen=True, slots=True)
class Contender:
    """``env`` names the environment (``requirements/<env>.txt``; empty: ours).

    ``worker`` is its command, the first word from the environment: ``{streams}`` stands for the
    number of streams in flight, ``{number}`` for that of the worker. ``producer`` takes orders on
    its standard input; without one the worker itself does.
    """

    name: str
    title: str
    env: str
    worker: tuple[str, ...]
    producer: str = ""
    max_streams: int = 1_000_000
    environ: dict[str, str] = field(default_factory=dict)

    def command(self, streams: int, number: int = 0) -> list[str]:
        """Return the command of the worker of this number, for this many streams."""
        first, *rest = (word.format(streams=streams, number=number) for word in self.worker)
        return [str(self._bin / first), *rest]

    def produce(self) -> list[str] | None:
        """Return the command of the producer."""
        return [str(self._bin / "python"), self.producer] if self.producer else None

    @property
    def _bin(self) -> Path:
        return ENVS / self.env / "bin" if self.env else Path(sys.executable).parent


def _celery(name: str, pool: str) -> tuple[str, ...]:
    return (
        *("celery", "-A", name, "worker", "-P", pool, "-c", "{streams}"),
        *("--loglevel", "WARNING", "--hostname", "w{number}@%h"),
    )


CONTENDERS = {
    contender.name: contender
    for contender in (
        Contender(
            "ours",
            "Berlin Worker",
            "",
            (
                *("celery", "-A", "berlin_worker", "worker", "-c", "{streams}"),
                *("--loglevel", "WARNING", "--hostname", "w{number}@%h"),
            ),
            "ours.py",
            environ={"PYTHONPATH": str(ROOT), "BERLIN_ACCOUNT": "a", "BERLIN_PASSWORD": "b"},
        ),
        Contender(
            "ours-openai",
            "Berlin Worker, provider `openai`",
            "",
            (
                *("celery", "-A", "berlin_worker", "worker", "-c", "{streams}"),
                *("--loglevel", "WARNING", "--hostname", "w{number}@%h"),
            ),
            "ours.py",
            environ={"PYTHONPATH": str(ROOT), "WORKER_DEFAULT_PROVIDER": "openai"},
        ),
        Contender(
            "openai-sdk",
            "the floor with OpenAI's SDK",
            "openai",
            ("python", "openai_sdk.py"),
            # The SDK takes three times the CPU: more would not keep the pace.
            max_streams=300,
        ),
        Contender("floor", "the floor: bare asyncio", "", ("python", "floor.py")),
        Contender(
            "celery-prefork",
            "Celery prefork, `asyncio.run`",
            "celery",
            _celery("celery_prefork", "prefork"),
            "celery_prefork.py",
            # A process of about 30 MB for each stream: a thousand would not fit.
            max_streams=50,
        ),
        Contender(
            "celery-threads",
            "Celery threads, one loop",
            "celery",
            _celery("celery_threads", "threads"),
            "celery_threads.py",
        ),
        Contender(
            "celery-gevent",
            "Celery gevent, redis-py",
            "celery",
            _celery("celery_gevent", "gevent"),
            "celery_gevent.py",
        ),
        Contender(
            "arq",
            "arq",
            "arq",
            ("arq", "arq_jobs.Worker", "--custom-log-dict", "arq_jobs.logging"),
            "arq_jobs.py",
        ),
        Contender(
            "taskiq",
            "taskiq",
            "taskiq",
            (
                *("taskiq", "worker", "taskiq_jobs:broker", "--workers", "1"),
                *("--max-async-tasks", "{streams}", "--log-level", "WARNING"),
            ),
            "taskiq_jobs.py",
        ),
        Contender("saq", "SAQ", "saq", ("saq", "saq_jobs.settings", "--quiet"), "saq_jobs.py"),
        Contender(
            "streaq", "streaq", "streaq", ("streaq", "run", "streaq_jobs:worker"), "streaq_jobs.py"
        ),
        Contender(
            "dramatiq",
            "dramatiq, asyncio middleware",
            "dramatiq",
            ("dramatiq", "dramatiq_jobs", "--processes", "1", "--threads", "{streams}"),
            "dramatiq_jobs.py",
        ),
    )
}


def environ(
    contender: Contender, *, redis_url: str, berlin_url: str, streams: int
) -> dict[str, str]:
    """Return the environment of its worker and of its producer."""
    return {
        **{name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ},
        "PYTHONPATH": str(HERE),
        "PYTHONDONTWRITEBYTECODE": "1",
        "REDIS_URL": redis_url,
        "BERLIN_URL": berlin_url,
        "OPENAI_BASE_URL": f"{berlin_url}/v1",
        "BENCH_STREAMS": str(streams),
        **contender.environ,
    }
