"""Programs that a test needs: in CI they must exist, at a desk the test is skipped."""

import os
from typing import TypeVar

import pytest

T = TypeVar("T")


def needed(found: T | None, what: str) -> T:
    """Return ``found``; if it is ``None``, the test fails in CI, and is skipped elsewhere."""
    if found is None:
        pytest.fail(f"no {what}") if os.environ.get("CI") else pytest.skip(f"no {what}")
    return found
