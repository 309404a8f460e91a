"""Tokens in the usage that an upstream reports. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

_FIELDS: Final = {
    "prompt_tokens": "input",
    "input_tokens": "input",
    "completion_tokens": "output",
    "output_tokens": "output",
}
"""Names of OpenAI's two APIs."""
_MOST: Final = 10**12


def tokens_of(usage: Mapping[str, Any] | None) -> Iterator[tuple[str, int]]:
    """Yield ``input`` and ``output`` with their numbers of tokens, each at most once."""
    if not isinstance(usage, Mapping):
        return
    found: dict[str, int] = {}
    for field, kind in _FIELDS.items():
        tokens = usage.get(field)
        if isinstance(tokens, int) and not isinstance(tokens, bool) and 0 <= tokens < _MOST:
            found.setdefault(kind, tokens)
    yield from found.items()
