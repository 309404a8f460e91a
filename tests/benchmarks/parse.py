"""The cost of a chunk from bytes to text, by protocol: ``python -m tests.benchmarks.parse``.

Each figure is the best of several rounds, which take turns, in µs of CPU of this machine. The JSON
readers are in the table with their own cost; one that is not installed is left out.
"""

import importlib
import itertools
import json
import time
from collections.abc import Callable
from typing import Any, Final

from pydantic_core import from_json

from berlin_worker.providers.limits import Limits
from berlin_worker.providers.ndjson import ReplyDecoder
from berlin_worker.providers.openai.reply import AnswerDecoder
from tests.benchmarks.upstream import EVENT, LINE, PADDED, PADDINGS

_LIMITS: Final = Limits(max_line_bytes=1 << 20, max_chunks=1 << 60, max_text_bytes=1 << 60)
_CALLS: Final = 2_000
_ROUNDS: Final = 60
_TIME: Final = (1764412345678901234, 17)
_OTHER: Final = EVENT.replace(b'"created":1764412345', b'"created":%d')


def _berlin(count: int) -> Callable[[], object]:
    decoder, data = ReplyDecoder(_LIMITS, lambda _: ""), LINE % _TIME * count
    return lambda: decoder.feed(data)


def _openai(event: bytes, count: int) -> Callable[[], object]:
    decoder, data = AnswerDecoder(_LIMITS, str), event % _TIME * count
    decoder.feed(data)
    return lambda: decoder.feed(data)


def _padded(count: int, word: bytes = b"token") -> Callable[[], object]:
    """Return chunks as OpenAI sends them, each padded to another length."""
    event = PADDED.replace(b"token", word)
    reads = [
        b"".join(
            event % (*_TIME, PADDINGS[(first + number) % len(PADDINGS)]) for number in range(count)
        )
        for first in range(len(PADDINGS))
    ]
    decoder, turn = AnswerDecoder(_LIMITS, str), itertools.cycle(reads)
    decoder.feed(PADDED % (*_TIME, b"x"))
    return lambda: decoder.feed(next(turn))


def _varying() -> Callable[[], object]:
    """Return chunks that differ in more than their text: the JSON reader has each of them."""
    decoder, number = AnswerDecoder(_LIMITS, str), iter(range(1 << 60))
    return lambda: decoder.feed(_OTHER % (next(number), *_TIME))


def _readers() -> dict[str, Callable[[], object]]:
    data = (EVENT % _TIME)[6:-2]
    found: dict[str, Callable[[], object]] = {
        "JSON alone: pydantic_core": lambda: from_json(data, cache_strings="keys"),
        "JSON alone: json": lambda: json.loads(data),
    }
    for name in ("orjson", "msgspec.json"):
        try:
            module: Any = importlib.import_module(name)
        except ImportError:
            continue
        load = getattr(module, "loads", None) or module.Decoder(_typed()).decode
        found[f"JSON alone: {name}"] = lambda load=load: load(data)  # type: ignore[misc]  # bound now
    return found


def _typed() -> Any:
    """Return the parts of a chunk that are used, as types of msgspec."""
    define: Any = importlib.import_module("msgspec").defstruct
    delta = define("Delta", [("content", str | None, None), ("reasoning", str | None, None)])
    choice = define("Choice", [("delta", delta), ("finish_reason", str | None, None)])
    return define("Chunk", [("choices", list[choice]), ("usage", dict[str, Any] | None, None)])


def measured(work: dict[str, Callable[[], object]], *, rounds: int, calls: int) -> dict[str, float]:
    """Return the µs a call of each."""
    best = dict.fromkeys(work, float("inf"))
    for _ in range(rounds):
        for name, call in work.items():
            started = time.process_time()
            for _ in range(calls):
                call()
            best[name] = min(best[name], (time.process_time() - started) / calls * 1e6)
    return best


def work() -> dict[str, Callable[[], object]]:
    """Return what is measured, by name. Those that end in "10 a read" do ten chunks."""
    return {
        "Berlin: line": _berlin(1),
        "Berlin: line, 10 a read": _berlin(10),
        "OpenAI: event": _openai(EVENT, 1),
        "OpenAI: event, 10 a read": _openai(EVENT, 10),
        "OpenAI: event with padding": _padded(1),
        "OpenAI: event with padding, 10 a read": _padded(10),
        "OpenAI: event with padding and an escape": _padded(1, b"to\\nken"),
        "OpenAI: event that fits no template": _varying(),
        **_readers(),
    }


def main() -> None:
    """Print the table."""
    print("| what | µs a chunk |\n| --- | --- |")
    for name, cost in measured(work(), rounds=_ROUNDS, calls=_CALLS).items():
        print(f"| {name} | {cost / (10 if name.endswith('10 a read') else 1):.2f} |")


if __name__ == "__main__":
    main()
