"""Pieces of tool calls find their call, also if a server omits, repeats or renumbers."""

import itertools
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berlin_worker.providers.openai.tool_calls import ToolCalls

if TYPE_CHECKING:
    from berlin_worker.providers.deltas import ToolCallDelta

pytestmark = pytest.mark.unit

_OMITTED: Any = object()


def piece(
    arguments: Any = "",
    *,
    index: Any = _OMITTED,
    id: Any = _OMITTED,  # noqa: A002  # the name of the field
    name: Any = _OMITTED,
) -> dict[str, Any]:
    function = {"arguments": arguments, "name": name}
    found = {"index": index, "id": id, "type": "function"}
    found["function"] = {key: value for key, value in function.items() if value is not _OMITTED}
    return {key: value for key, value in found.items() if value is not _OMITTED}


def assembled(pieces: list[dict[str, Any]]) -> list[tuple[str | None, str | None, str]]:
    """Return ID, name and arguments of each call, after a check of the deltas."""
    counter = itertools.count()
    calls = ToolCalls(lambda: f"made-{next(counter)}")
    deltas = [delta for one in pieces for delta in calls.add([one])] + calls.finish()
    found: dict[int, list[ToolCallDelta]] = {}
    for delta in deltas:
        found.setdefault(delta.index, []).append(delta)
    assert sorted(found) == list(range(len(found)))
    for first, *later in found.values():
        assert first.id
        assert first.name is not None
        assert all(delta.id is delta.name is None and delta.arguments for delta in later)
    return [
        (one[0].id, one[0].name, "".join(delta.arguments for delta in one))
        for _, one in sorted(found.items())
    ]


A, B = '{"city": "Paris"}', '{"city": "Rome"}'

CASES: dict[str, tuple[list[dict[str, Any]], list[tuple[str, str, str]]]] = {
    # platform.openai.com, streaming of function calls
    "by the protocol": (
        [
            piece(index=0, id="a", name="f"), piece(A[:5], index=0), piece(A[5:], index=0),
            piece(index=1, id="b", name="f"), piece(B, index=1),
        ],
        [("a", "f", A), ("b", "f", B)],
    ),
    "interleaved": (
        [
            piece(index=0, id="a", name="f"), piece(index=1, id="b", name="g"),
            piece(A[:5], index=0), piece(B[:5], index=1), piece(A[5:], index=0),
            piece(B[5:], index=1),
        ],
        [("a", "f", A), ("b", "g", B)],
    ),
    # Gemini's compatible endpoint (openai-python 3246): no index, a call in one piece
    "without an index": (
        [piece(A, id="a", name="f"), piece(B, id="b", name="f")],
        [("a", "f", A), ("b", "f", B)],
    ),
    # Ollama, maka 1976: the index 0 for each
    "one index for all": (
        [piece(A, index=0, id="a", name="f"), piece(B, index=0, id="b", name="f")],
        [("a", "f", A), ("b", "f", B)],
    ),
    "one index for all, in pieces": (
        [
            piece(index=0, id="a", name="f"), piece(A[:5], index=0), piece(A[5:], index=0),
            piece(index=0, id="b", name="f"), piece(B[:5], index=0), piece(B[5:], index=0),
        ],
        [("a", "f", A), ("b", "f", B)],
    ),
    # agno 8880: later pieces have an index of their own
    "renumbered index": (
        [piece(index=0, id="a", name="f"), piece(A[:5], index=1), piece(A[5:], index=2)],
        [("a", "f", A)],
    ),
    "renumbered index with the ID": (
        [
            piece(index=0, id="a", name="f"), piece(index=1, id="b", name="g"),
            piece(A, index=1, id="a"), piece(B, index=0, id="b"),
        ],
        [("a", "f", A), ("b", "g", B)],
    ),
    # opencode 47954: no ID
    "without an ID": (
        [
            piece(index=0, name="f"), piece(A, index=0), piece(index=1, name="g"),
            piece(B, index=1),
        ],
        [("made-0", "f", A), ("made-1", "g", B)],
    ),
    "without ID and index": (
        [piece(name="f"), piece(A[:5]), piece(A[5:]), piece(name="g"), piece(B)],
        [("made-0", "f", A), ("made-1", "g", B)],
    ),
    "empty ID and name in later pieces": (
        [piece(index=0, id="a", name="f"), piece(A[:5], index=0, id="", name=""),
         piece(A[5:], index=0, id=None, name=None)],
        [("a", "f", A)],
    ),
    "ID and name repeated": (
        [piece(part, index=0, id="a", name="f") for part in (A[:3], A[3:8], A[8:])],
        [("a", "f", A)],
    ),
    "name repeated without an ID": (
        [piece(part, index=0, name="f") for part in (A[:3], A[3:8], A[8:])]
        + [piece(part, index=0, name="f") for part in (B[:3], B[3:])],
        [("made-0", "f", A), ("made-1", "f", B)],
    ),
    # vLLM made an ID for each piece
    "a new ID in each piece": (
        [piece(index=0, id="a", name="f"), piece(A[:5], index=0, id="x"),
         piece(A[5:], index=0, id="y"), piece(index=1, id="b", name="f"),
         piece(B, index=1, id="z")],
        [("a", "f", A), ("b", "f", B)],
    ),
    "the ID comes late": (
        [piece(index=0, name="f"), piece(A[:5], index=0, id="a"), piece(A[5:], id="a")],
        [("made-0", "f", A)],
    ),
    "the name comes late": (
        [piece(index=0, id="a"), piece(A[:5], index=0), piece(A[5:], index=0, name="f")],
        [("a", "f", A)],
    ),
    "one ID for all": (
        [piece(index=0, id="x", name="f"), piece(A, index=0), piece(index=1, id="x", name="g"),
         piece(B, index=1)],
        [("x", "f", A), ("made-0", "g", B)],
    ),
    "one ID in each piece of all": (
        [piece(index=0, id="x", name="f"), piece(A[:5], index=0, id="x"),
         piece(index=1, id="x", name="g"), piece(A[5:], index=0, id="x"),
         piece(B, index=1, id="x")],
        [("x", "f", A), ("made-0", "g", B)],
    ),
    "one ID for all, a call in one piece": (
        [piece(A, index=0, id="x", name="f"), piece(B, index=1, id="x", name="f")],
        [("x", "f", A), ("made-0", "f", B)],
    ),
    "one ID for all and no index": (
        [piece(A, id="x", name="f"), piece(B, id="x", name="g")],
        [("x", "f", A), ("made-0", "g", B)],
    ),
    "renumbered index, ID and name in each piece": (
        [piece(part, index=number, id="a", name="f")
         for number, part in enumerate((A[:3], A[3:8], A[8:], ""))],
        [("a", "f", A)],
    ),
    # LocalAI issue 9722
    "all of a call repeated under other indices": (
        [piece(index=0, id="a", name="f"), piece(A, index=1, id="a", name="f"),
         piece(A, index=2, id="a", name="f"), piece(A, index=0, id="a", name="f")],
        [("a", "f", A)],
    ),
    # agno 8880: the index of the first call, and then one of its own
    "the second call begins at the index of the first": (
        [piece(index=0, id="a", name="f"), piece(A, index=0), piece(index=0, id="b", name="f"),
         piece(B[:5], index=1), piece(B[5:], index=1)],
        [("a", "f", A), ("b", "f", B)],
    ),
    # vLLM issue 44098: ID and name once more in the last piece
    "ID and name again at the end": (
        [piece(index=0, id="a", name="f"), piece(A[:5], index=0),
         piece(A[5:], index=0, id="a", name="f")],
        [("a", "f", A)],
    ),
    # lmdeploy issue 3412: SGLang counts in the ID, the index stays 0
    "short IDs, repeated": (
        [piece(index=0, id="0", name="f"), piece(A, index=0, id="0", name="f"),
         piece(index=0, id="1", name="f"), piece(B, index=0, id="1", name="f")],
        [("0", "f", A), ("1", "f", B)],
    ),
    "arguments as JSON": (
        [piece({"city": "Paris"}, index=0, id="a", name="f")], [("a", "f", '{"city":"Paris"}')],
    ),
    "no arguments": (
        [piece(None, index=0, id="a", name="f"), piece(_OMITTED, index=1, id="b", name="g")],
        [("a", "f", ""), ("b", "g", "")],
    ),
    "an index in quotes": (
        [piece(index="0", id="a", name="f"), piece(index="1", id="b", name="g"),
         piece(A, index="0"), piece(B, index=1)],
        [("a", "f", A), ("b", "g", B)],
    ),
    "an index with a fraction": (
        [piece(index=0.0, id="a", name="f"), piece(index=1.0, id="b", name="g"),
         piece(A, index=0.0), piece(B, index=1)],
        [("a", "f", A), ("b", "g", B)],
    ),
    "a custom tool": (
        [{"index": 0, "id": "a", "type": "custom", "custom": {"name": "f", "input": "x = 1"}}],
        [("a", "f", "x = 1")],
    ),
    "half a pair": (
        [piece(index=0, id="a", name="f"), piece("\ud83d", index=0), piece("\ude00", index=0)],
        [("a", "f", "😀")],
    ),
    "half a pair without its other": (
        [piece("x\ud83d", index=0, id="a", name="f")], [("a", "f", "x\ufffd")],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("pieces", "calls"), CASES.values(), ids=list(CASES))
def test_pieces_find_their_call(
    pieces: list[dict[str, Any]], calls: list[tuple[str, str, str]]
) -> None:
    assert assembled(pieces) == calls


@given(
    st.lists(st.text(max_size=6).map(lambda text: json.dumps({"a": text})), max_size=4),
    st.sampled_from(["both", "id", "index", "all in each"]),
    st.randoms(use_true_random=False),
)
def test_any_order_of_calls_with_either_mark(arguments: list[str], marks: str, random: Any) -> None:
    queues = []
    for number, text in enumerate(arguments):
        mark: dict[str, Any] = {"index": number} if marks != "id" else {}
        mark |= {"id": f"call-{number}"} if marks != "index" else {}
        later = mark if marks != "both" else {"index": number}
        repeated = {"name": "f"} if marks == "all in each" else {}
        queues.append([piece("", name="f", **mark)])
        queues[-1] += [piece(char, **later, **repeated) for char in text]
    pieces = []
    while any(queues):
        pieces.append(random.choice([queue for queue in queues if queue]).pop(0))
    found = assembled(pieces)
    assert sorted(text for _, _, text in found) == sorted(arguments)
